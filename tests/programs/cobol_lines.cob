      *> LINE SEQUENTIAL files: lines of text, some empty, trailing spaces dropped by the run time.
      *>
      *>   cobol_lines ROUNDS
      *>
      *> Keeps lines.txt in the working directory. A file that exists is extended.
       identification division.
       program-id. cobol_lines.
       environment division.
       input-output section.
       file-control.
           select report-file assign to "lines.txt"
               organization is line sequential file status is outcome.
       data division.
       file section.
       fd  report-file.
       01  report-line                 pic x(120).
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
           open extend report-file
           if outcome = "35"
               open output report-file
           end-if
           if outcome not = "00" and outcome not = "05"
               display "opening lines.txt: " outcome upon syserr
               stop run returning 1
           end-if
           perform varying turn from 1 by 1 until turn > rounds
               move spaces to report-line
               if function mod(turn, 6) not = 0
                   string "line " turn
                       " of a report, with spaces behind it"
                       delimited by size into report-line
               end-if
               write report-line
           end-perform
           close report-file
           stop run.
