      * A customer: record of 500 bytes.
       01  CUSTOMER-RECORD.
           05  CUST-ID                PIC 9(09).
           05  CUST-FIRST-NAME        PIC X(25).
           05  CUST-MIDDLE-NAME       PIC X(25).
           05  CUST-LAST-NAME         PIC X(25).
           05  CUST-ADDR-LINE         PIC X(50) OCCURS 3 TIMES.
           05  CUST-ADDR-STATE-CD     PIC X(02).
           05  CUST-ADDR-COUNTRY-CD   PIC X(03).
           05  CUST-ADDR-ZIP          PIC X(10).
           05  CUST-PHONE-NUM         PIC X(15) OCCURS 2 TIMES.
           05  CUST-SSN               PIC 9(09).
           05  CUST-GOVT-ISSUED-ID    PIC X(20).
           05  CUST-DOB               PIC X(10).
           05  CUST-EFT-ACCOUNT-ID    PIC X(10).
           05  CUST-PRI-CARD-HOLDER   PIC X(01).
           05  CUST-FICO-CREDIT-SCORE PIC 9(03).
           05  FILLER                 PIC X(168).
