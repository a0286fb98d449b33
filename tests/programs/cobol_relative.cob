      *> Relative files: WRITE, REWRITE, DELETE, at random and in sequence.
      *>
      *>   cobol_relative ROUNDS
      *>
      *> Keeps relative.dat in the working directory: slots of at most 80 bytes, with records of 30
      *> and of 80 bytes. A file that exists is taken up.
       identification division.
       program-id. cobol_relative.
       environment division.
       input-output section.
       file-control.
           select slots assign to "relative.dat"
               organization is relative access mode is dynamic
               relative key is slot-number file status is outcome.
       data division.
       file section.
       fd  slots record is varying in size from 30 to 80 characters
               depending on slot-length.
       01  slot-record                 pic x(80).
       working-storage section.
       01  outcome                     pic xx.
       01  slot-number                 pic 9(8).
       01  slot-length                 pic 9(4) value 80.
       01  argument                    pic x(20).
       01  rounds                      pic 9(8) value 100.
       01  turn                        pic 9(8).
       01  kind                        pic 9(4).
       01  shorter                     pic 9(4).
       procedure division.
           accept argument from command-line
           if argument not = spaces
               compute rounds = function numval(argument)
           end-if
           open i-o slots
           if outcome = "35"
               open output slots
               close slots
               open i-o slots
           end-if
           if outcome not = "00"
               display "opening relative.dat: " outcome upon syserr
               stop run returning 1
           end-if
           perform varying turn from 1 by 1 until turn > rounds
               compute slot-number = function mod(turn * 7919, 97) + 1
               compute kind = function mod(turn, 5)
               compute shorter = function mod(turn, 2)
               move 80 to slot-length
               if shorter = 1
                   move 30 to slot-length
               end-if
               move spaces to slot-record
               string "slot " slot-number " turn " turn
                   delimited by size into slot-record
               evaluate kind
                   when 0
                       delete slots record
                           invalid key continue
                       end-delete
                   when 1
                       move 80 to slot-length
                       rewrite slot-record
                           invalid key continue
                       end-rewrite
                   when other
                       write slot-record
                           invalid key rewrite slot-record
                               invalid key continue
                           end-rewrite
                       end-write
               end-evaluate
           end-perform
           close slots
      *> In sequence: every third record is rewritten, every seventh deleted.
           open i-o slots
           move zero to turn
           perform forever
               read slots next record
                   at end exit perform
               end-read
               add 1 to turn
               if function mod(turn, 3) = 0
                   inspect slot-record replacing all "turn" by "TURN"
                   rewrite slot-record
               end-if
               if function mod(turn, 7) = 0
                   delete slots record
               end-if
           end-perform
           close slots
           stop run.
