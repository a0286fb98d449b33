      *> Marks a unit of work around the writes to two files.
      *>
      *>     cobc -x units.cob
      *>
      *> and run as usual, or captured: counterfoil exec -- ./units
      *>
      *> ON EXCEPTION: without Counterfoil there is nothing to call.
      *> RETURNING OMITTED: the RETURN-CODE stays what it is.
       IDENTIFICATION DIVISION.
       PROGRAM-ID. UNITS.
       ENVIRONMENT DIVISION.
       INPUT-OUTPUT SECTION.
       FILE-CONTROL.
           SELECT OPTIONAL DEBITS ASSIGN TO "debits.txt"
               ORGANIZATION IS LINE SEQUENTIAL.
           SELECT OPTIONAL CREDITS ASSIGN TO "credits.txt"
               ORGANIZATION IS LINE SEQUENTIAL.
       DATA DIVISION.
       FILE SECTION.
       FD DEBITS.
       01 DEBIT PIC X(20).
       FD CREDITS.
       01 CREDIT PIC X(20).
       PROCEDURE DIVISION.
           CALL "counterfoil_begin" RETURNING OMITTED
               ON EXCEPTION CONTINUE
           END-CALL.
           OPEN EXTEND DEBITS CREDITS.
           MOVE "4711 -100.00" TO DEBIT.
           WRITE DEBIT.
           MOVE "4712 +100.00" TO CREDIT.
           WRITE CREDIT.
      *> Lines reach the file when it is closed.
           CLOSE DEBITS CREDITS.
           CALL "counterfoil_commit" RETURNING OMITTED
               ON EXCEPTION CONTINUE
           END-CALL.
           STOP RUN.
