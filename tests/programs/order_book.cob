      *> Writes ORDERS orders of up to five lines, each with up to three
      *> lots, into a file that it empties first, and then rewrites every
      *> third of them with another number of lines and lots.
       IDENTIFICATION DIVISION.
       PROGRAM-ID. ORDERBOOK.
       ENVIRONMENT DIVISION.
       INPUT-OUTPUT SECTION.
       FILE-CONTROL.
           SELECT ORDERS ASSIGN TO "orders.dat"
               ORGANIZATION IS SEQUENTIAL FILE STATUS IS STATE.
       DATA DIVISION.
       FILE SECTION.
       FD ORDERS.
       01 ORDER-RECORD.
           05 ORDER-ID PIC 9(4).
           05 LINE-COUNT PIC 99.
           05 ORDER-LINE OCCURS 5.
               10 ITEM PIC X(3).
               10 AMOUNT PIC S9(3)V99 COMP-3.
               10 LOT-COUNT PIC 9.
               10 LOT OCCURS 3.
                   15 LOT-ID PIC X(2).
       WORKING-STORAGE SECTION.
       01 STATE PIC XX.
       01 ARGUMENT PIC X(10).
       01 ORDER-COUNT PIC 9(4).
       01 N PIC 9(4).
       01 SEED PIC 9(6).
       01 L PIC 99.
       01 K PIC 9.
       01 LOT-NUMBER PIC 99.
       PROCEDURE DIVISION.
       MAIN.
           ACCEPT ARGUMENT FROM COMMAND-LINE.
           COMPUTE ORDER-COUNT = FUNCTION NUMVAL(ARGUMENT).
           OPEN OUTPUT ORDERS.
           PERFORM CHECK.
           PERFORM VARYING N FROM 1 BY 1 UNTIL N > ORDER-COUNT
               MOVE N TO SEED
               PERFORM FILL
               WRITE ORDER-RECORD
               PERFORM CHECK
           END-PERFORM.
           CLOSE ORDERS.
           OPEN I-O ORDERS.
           PERFORM CHECK.
           PERFORM VARYING N FROM 1 BY 1 UNTIL N > ORDER-COUNT
               READ ORDERS
               PERFORM CHECK
               IF FUNCTION MOD(N, 3) = 0
                   COMPUTE SEED = N + 4
                   PERFORM FILL
                   REWRITE ORDER-RECORD
                   PERFORM CHECK
               END-IF
           END-PERFORM.
           CLOSE ORDERS.
           STOP RUN.
       FILL.
           MOVE SPACES TO ORDER-RECORD.
           MOVE N TO ORDER-ID.
           COMPUTE LINE-COUNT = FUNCTION MOD(SEED, 6).
           PERFORM VARYING L FROM 1 BY 1 UNTIL L > LINE-COUNT
               MOVE "I" TO ITEM(L)(1:1)
               MOVE L TO ITEM(L)(2:2)
               COMPUTE AMOUNT(L) = SEED / 4 - L
               COMPUTE LOT-COUNT(L) = FUNCTION MOD(SEED + L, 4)
               PERFORM VARYING K FROM 1 BY 1 UNTIL K > LOT-COUNT(L)
                   COMPUTE LOT-NUMBER = FUNCTION MOD(SEED * K, 100)
                   MOVE LOT-NUMBER TO LOT-ID(L, K)
               END-PERFORM
           END-PERFORM.
       CHECK.
           IF STATE NOT = "00" AND STATE NOT = "05"
               DISPLAY "status " STATE " at order " N
               MOVE 1 TO RETURN-CODE
               STOP RUN
           END-IF.
