      *> Fixed-length sequential files: OPEN OUTPUT, EXTEND, and I-O with REWRITE.
      *>
      *>   cobol_fixed ROUNDS
      *>
      *> Keeps fixed.dat in the working directory: records of 60 bytes. A file that exists is
      *> extended.
       identification division.
       program-id. cobol_fixed.
       environment division.
       input-output section.
       file-control.
           select ledger assign to "fixed.dat"
               organization is sequential file status is outcome.
       data division.
       file section.
       fd  ledger.
       01  ledger-record.
           05  entry-number            pic 9(8).
           05  entry-text              pic x(40).
           05  amount                  pic s9(9)v99 comp-3.
           05  filler                  pic x(6).
       working-storage section.
       01  outcome                     pic xx.
       01  argument                    pic x(20).
       01  rounds                      pic 9(8) value 100.
       01  turn                        pic 9(8).
       procedure division.
           accept argument from command-line
           if argument not = spaces
               compute rounds = function numval(argument)
           end-if
           open extend ledger
           if outcome = "35"
               open output ledger
           end-if
           if outcome not = "00" and outcome not = "05"
               display "opening fixed.dat: " outcome upon syserr
               stop run returning 1
           end-if
           perform varying turn from 1 by 1 until turn > rounds
               move spaces to ledger-record
               move turn to entry-number
               string "entry " turn delimited by size
                   into entry-text
               compute amount = turn * 1.25 - 100
               write ledger-record
           end-perform
           close ledger
           open i-o ledger
           perform varying turn from 1 by 1 until turn > rounds
               read ledger
                   at end exit perform
               end-read
               if function mod(turn, 3) = 0
                   move "rewritten" to entry-text
                   rewrite ledger-record
               end-if
           end-perform
           close ledger
           stop run.
