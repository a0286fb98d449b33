      *> Opens a file for output, and says with which status.
       IDENTIFICATION DIVISION.
       PROGRAM-ID. OUTPUT-STATUS.
       ENVIRONMENT DIVISION.
       INPUT-OUTPUT SECTION.
       FILE-CONTROL.
           SELECT REPORT-FILE ASSIGN TO "report.dat"
               ORGANIZATION IS SEQUENTIAL FILE STATUS IS STATE.
       DATA DIVISION.
       FILE SECTION.
       FD REPORT-FILE.
       01 REPORT-LINE PIC X(32).
       WORKING-STORAGE SECTION.
       01 STATE PIC XX.
       PROCEDURE DIVISION.
           OPEN OUTPUT REPORT-FILE.
           DISPLAY STATE.
           IF STATE = "00"
               MOVE ALL "r" TO REPORT-LINE
               WRITE REPORT-LINE
               CLOSE REPORT-FILE
           END-IF.
           STOP RUN.
