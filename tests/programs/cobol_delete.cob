      *> DELETE FILE: a file is made, removed, and made again with other records.
      *>
      *>   cobol_delete
      *>
      *> Leaves kept.dat in the working directory, records of 20 bytes, and no gone.dat.
       identification division.
       program-id. cobol_delete.
       environment division.
       input-output section.
       file-control.
           select ledger assign to "kept.dat"
               organization is sequential file status is outcome.
           select scrap assign to "gone.dat"
               organization is sequential file status is outcome.
       data division.
       file section.
       fd  ledger.
       01  ledger-record                 pic x(20).
       fd  scrap.
       01  scrap-record                 pic x(20).
       working-storage section.
       01  outcome                     pic xx.
       procedure division.
           open output ledger
           move "the first file" to ledger-record
           write ledger-record
           close ledger
           open output scrap
           move "gone soon" to scrap-record
           write scrap-record
           close scrap
           delete file scrap
           perform check-outcome
           delete file ledger
           perform check-outcome
           open output ledger
           move "the second file" to ledger-record
           write ledger-record
           write ledger-record
           close ledger
           perform check-outcome
           stop run.
       check-outcome.
           if outcome not = "00"
               display "file status " outcome upon syserr
               stop run returning 1
           end-if.
