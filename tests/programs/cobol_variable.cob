      *> Variable-length sequential files, records of 10 to 200 bytes.
      *>
      *>   cobol_variable ROUNDS
      *>
      *> Keeps variable.dat in the working directory; COB_VARSEQ_FORMAT (0 to 3) chooses the length
      *> prefix. A file that exists is extended. Every fourth record of full length is rewritten.
       identification division.
       program-id. cobol_variable.
       environment division.
       input-output section.
       file-control.
           select journal assign to "variable.dat"
               organization is sequential file status is outcome.
       data division.
       file section.
       fd  journal record is varying in size from 10 to 200 characters
               depending on entry-length.
       01  entry-record                pic x(200).
       working-storage section.
       01  outcome                     pic xx.
       01  entry-length                pic 9(4).
       01  argument                    pic x(20).
       01  rounds                      pic 9(8) value 100.
       01  turn                        pic 9(8).
       procedure division.
           accept argument from command-line
           if argument not = spaces
               compute rounds = function numval(argument)
           end-if
           open extend journal
           if outcome = "35"
               open output journal
           end-if
           if outcome not = "00" and outcome not = "05"
               display "opening variable.dat: " outcome upon syserr
               stop run returning 1
           end-if
           perform varying turn from 1 by 1 until turn > rounds
               move all "v" to entry-record
               string "entry " turn delimited by size
                   into entry-record
               compute entry-length = 10 + function mod(turn * 37, 191)
               if function mod(turn, 5) = 0
                   move 200 to entry-length
               end-if
               write entry-record
           end-perform
           close journal
           open i-o journal
           move zero to turn
           perform forever
               read journal
                   at end exit perform
               end-read
               add 1 to turn
               if entry-length = 200 and function mod(turn, 4) = 0
                   move "rewritten" to entry-record(1:9)
                   rewrite entry-record
               end-if
           end-perform
           close journal
           stop run.
