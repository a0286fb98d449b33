      *> Keeps three books in step: in each turn the relative file gets a new
      *> value, the variable file and the log a line each. Arguments: the first
      *> turn, the last one, and HOW; with COMMIT it commits instead of
      *> closing, and closes at the end.
       IDENTIFICATION DIVISION.
       PROGRAM-ID. BOOKS.
       ENVIRONMENT DIVISION.
       INPUT-OUTPUT SECTION.
       FILE-CONTROL.
           SELECT CARDS ASSIGN TO "cards.dat"
               ORGANIZATION IS RELATIVE ACCESS MODE IS RANDOM
               RELATIVE KEY IS SLOT FILE STATUS IS STATE.
           SELECT ENTRIES ASSIGN TO "entries.dat"
               ORGANIZATION IS SEQUENTIAL FILE STATUS IS STATE.
           SELECT LINES-OUT ASSIGN TO "lines.log"
               ORGANIZATION IS LINE SEQUENTIAL FILE STATUS IS STATE.
       DATA DIVISION.
       FILE SECTION.
       FD CARDS.
       01 CARD.
           05 CARD-VALUE PIC 9(6).
           05 FILLER PIC X(58).
       FD ENTRIES RECORD IS VARYING IN SIZE FROM 6 TO 80 CHARACTERS
           DEPENDING ON ENTRY-SIZE.
       01 ENTRY-OUT.
           05 ENTRY-VALUE PIC 9(6).
           05 ENTRY-REST PIC X(74).
       FD LINES-OUT.
       01 LINE-OUT PIC X(80).
       WORKING-STORAGE SECTION.
       01 SLOT PIC 9(6) VALUE 1.
       01 STATE PIC XX.
       01 TURN PIC 9(6).
       01 TURN-FIRST PIC 9(6).
       01 TURN-LAST PIC 9(6).
       01 ARGUMENTS PIC X(40).
       01 FIRST-TEXT PIC X(10).
       01 LAST-TEXT PIC X(10).
       01 HOW PIC X(10).
       01 ENTRY-SIZE PIC 9(4).
       PROCEDURE DIVISION.
       MAIN.
           ACCEPT ARGUMENTS FROM COMMAND-LINE.
           UNSTRING ARGUMENTS DELIMITED BY SPACE
               INTO FIRST-TEXT LAST-TEXT HOW.
           COMPUTE TURN-FIRST = FUNCTION NUMVAL(FIRST-TEXT).
           COMPUTE TURN-LAST = FUNCTION NUMVAL(LAST-TEXT).
           IF HOW = "COMMIT" PERFORM OPEN-ALL.
           PERFORM VARYING TURN FROM TURN-FIRST BY 1
                   UNTIL TURN > TURN-LAST
               IF HOW NOT = "COMMIT" PERFORM OPEN-ALL END-IF
               MOVE TURN TO CARD-VALUE
               IF TURN = 1 WRITE CARD ELSE REWRITE CARD END-IF
               PERFORM CHECK
               MOVE ALL "e" TO ENTRY-REST
               MOVE TURN TO ENTRY-VALUE
               COMPUTE ENTRY-SIZE = 6 + FUNCTION MOD(TURN, 70)
               WRITE ENTRY-OUT
               PERFORM CHECK
               MOVE TURN TO LINE-OUT
               WRITE LINE-OUT
               PERFORM CHECK
               IF HOW = "COMMIT"
                   COMMIT
               ELSE
                   CLOSE CARDS ENTRIES LINES-OUT
               END-IF
           END-PERFORM.
           IF HOW = "COMMIT" CLOSE CARDS ENTRIES LINES-OUT.
           STOP RUN.
       OPEN-ALL.
           OPEN I-O CARDS.
           IF STATE = "35"
               OPEN OUTPUT CARDS
               CLOSE CARDS
               OPEN I-O CARDS
           END-IF.
           PERFORM CHECK.
           OPEN EXTEND ENTRIES.
           IF STATE = "35" OPEN OUTPUT ENTRIES.
           PERFORM CHECK.
           OPEN EXTEND LINES-OUT.
           IF STATE = "35" OPEN OUTPUT LINES-OUT.
           PERFORM CHECK.
       CHECK.
           IF STATE NOT = "00" AND STATE NOT = "05"
               DISPLAY "status " STATE " in turn " TURN
               MOVE 1 TO RETURN-CODE
               STOP RUN
           END-IF.
