      *> A payment card. typed_cards.cob is compiled with it, and mirrored by it.
       01  CARD-RECORD.
           05  CARD-NUMBER             PIC X(16).
           05  HOLDER                  PIC X(24).
           05  AMOUNTS.
               10  BALANCE             PIC S9(9)V99 COMP-3.
               10  CREDIT-LIMIT        PIC 9(7)V99.
               10  FEE                 PIC S9(3)V99 OCCURS 2 TIMES.
           05  PAYMENTS                PIC S9(9) COMP.
           05  POINTS                  PIC 9(18) COMP-3.
           05  CARD-STATE              PIC X.
           05  FILLER                  PIC X(7).
