      *> Payment cards in a relative file, with a copybook: writes, rewrites, deletes.
      *>
      *>   typed_cards
      *>
      *> Writes ten cards into cards.dat in the working directory, changes three of them and deletes the last. Tells what
      *> it wrote: slot and fields, with | between; "gone" after the slot that it deleted.
       identification division.
       program-id. typed_cards.
       environment division.
       input-output section.
       file-control.
           select cards assign to "cards.dat"
               organization is relative access mode is dynamic
               relative key is slot-number file status is outcome.
       data division.
       file section.
       fd  cards.
           copy "card.cpy".
       working-storage section.
       01  outcome                     pic xx.
       01  slot-number                 pic 9(8).
       01  shown.
           05  shown-slot              pic z(7)9.
           05  shown-balance           pic -(9)9.99.
           05  shown-limit             pic z(6)9.99.
           05  shown-fee-1             pic -(3)9.99.
           05  shown-fee-2             pic -(3)9.99.
           05  shown-payments          pic -(9)9.
           05  shown-points            pic z(17)9.
       procedure division.
           open output cards
           close cards
           open i-o cards
           if outcome not = "00"
               display "opening cards.dat: " outcome upon syserr
               stop run returning 1
           end-if
           perform varying slot-number from 1 by 1
                   until slot-number > 10
               perform fill
               write card-record
               perform tell
           end-perform
           perform varying slot-number from 2 by 3
                   until slot-number > 8
               perform fill
               compute balance = 0 - balance - 0.01
               compute payments = 0 - slot-number
               move "B" to card-state
               rewrite card-record
               perform tell
           end-perform
           move 10 to slot-number
           delete cards record
           move slot-number to shown-slot
           display function trim(shown-slot) "|gone"
           close cards
           stop run.

       fill.
           initialize card-record
           string "4000 0000 0000 " slot-number(8:1)
               delimited by size into card-number
           string "Holder no. " slot-number(7:2)
               delimited by size into holder
           compute balance = slot-number * 1234567.89
           compute credit-limit = slot-number * 0.07
           compute fee(1) = 0 - slot-number - 0.25
           compute fee(2) = slot-number * 11.11
           compute payments = slot-number * 99999999
           compute points = 999999999999999999 - slot-number
           move "A" to card-state.

       tell.
           move slot-number to shown-slot
           move balance to shown-balance
           move credit-limit to shown-limit
           move fee(1) to shown-fee-1
           move fee(2) to shown-fee-2
           move payments to shown-payments
           move points to shown-points
           display function trim(shown-slot) "|"
               function trim(card-number) "|"
               function trim(holder) "|"
               function trim(shown-balance) "|"
               function trim(shown-limit) "|"
               function trim(shown-fee-1) "|"
               function trim(shown-fee-2) "|"
               function trim(shown-payments) "|"
               function trim(shown-points) "|"
               card-state.
