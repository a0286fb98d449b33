      *> The card switch in COBOL: the files and records of card_switch.c, kept the COBOL way.
      *>
      *>   card_switch_cobol DIR [--seconds N] [--payments N] [--cards N] [--rate N] [--seed S]
      *>
      *> cards.dat     RELATIVE, 150 bytes: WRITE, REWRITE, DELETE
      *> accounts.dat  SEQUENTIAL, 300 bytes: posted in a pass over the file every 200 payments
      *> journal.dat   SEQUENTIAL, 71 to 131 bytes: appended
      *> switch.log    LINE SEQUENTIAL: appended
      *>
      *> COMMIT comes every 50 payments. Files that exist are taken up: the journal says what
      *> happened, and cards and accounts that disagree with it are written again. A record cut
      *> short at the journal's end is left out of a copy that takes the journal's place.
       identification division.
       program-id. card_switch_cobol.
       environment division.
       input-output section.
       file-control.
           select cards assign to cards-path
               organization is relative access mode is random
               relative key is slot-number file status is outcome.
           select accounts assign to accounts-path
               organization is sequential file status is outcome.
           select journal assign to journal-path
               organization is sequential file status is outcome.
           select journal-copy assign to copy-path
               organization is sequential file status is outcome.
           select switch-log assign to log-path
               organization is line sequential
               file status is outcome.
       data division.
       file section.
       fd  cards.
       01  card-record.
           05  card-number             pic 9(16).
           05  card-state              pic x.
           05  card-account            pic 9(8).
           05  card-limit              pic 9(12).
           05  card-spent              pic 9(12).
           05  card-generation         pic 9(4).
           05  card-payment            pic 9(12).
           05  card-holder             pic x(30).
           05  filler                  pic x(55).
       fd  accounts.
       01  account-record.
           05  account-number          pic 9(8).
           05  account-opening         pic 9(14).
           05  account-balance         pic 9(14).
           05  account-payment         pic 9(12).
           05  account-payments        pic 9(10).
           05  account-owner           pic x(40).
           05  filler                  pic x(202).
       fd  journal record is varying in size from 71 to 131 characters
               depending on entry-length.
       01  entry-record.
           05  entry-type              pic x.
           05  entry-payment           pic 9(12).
           05  entry-slot              pic 9(8).
           05  entry-generation        pic 9(4).
           05  entry-account           pic 9(8).
           05  entry-amount            pic 9(12).
           05  entry-spent             pic 9(12).
           05  entry-balance           pic 9(14).
           05  entry-merchant          pic x(60).
       fd  journal-copy
               record is varying in size from 71 to 131 characters
               depending on copy-length.
       01  copy-record                 pic x(131).
       fd  switch-log.
       01  log-line                    pic x(120).
       working-storage section.
       01  outcome                     pic xx.
       01  slot-number                 pic 9(8).
       01  entry-length                pic 9(4).
       01  copy-length                 pic 9(4).
       01  directory                   pic x(400).
       01  cards-path                  pic x(420).
       01  accounts-path               pic x(420).
       01  journal-path                pic x(420).
       01  copy-path                   pic x(420).
       01  log-path                    pic x(420).
       01  argument                    pic x(420).
       01  option-name                 pic x(20).
       01  payments-wanted             pic 9(12) value 0.
       01  seconds-wanted              pic 9(8) value 0.
       01  card-count                  pic 9(8) value 200.
       01  rate                        pic 9(8) value 0.
       01  seed                        pic 9(8) value 1.
       01  payment                     pic 9(12) value 0.
       01  first-payment               pic 9(12).
       01  done-payments               pic 9(12) value 0.
       01  operations                  pic 9(12) value 0.
       01  whole-bytes                 pic 9(18) comp-5 value 0.
       01  chance                      pic 9v9(9).
       01  draw                        pic 9(9).
       01  file-details.
           05  file-size               pic x(8) comp-x.
           05  filler                  pic x(8).
       01  clock.
           05  clock-hours             pic 99.
           05  clock-minutes           pic 99.
           05  clock-seconds           pic 99.
           05  clock-hundredths        pic 99.
       01  time-now                    pic s9(9).
       01  time-begun                  pic s9(9).
       01  time-gone                   pic s9(9).
       01  time-due                    pic s9(9).
       01  pause-ns                    binary-double.
       01  switches.
           05  stopping                pic 9 value 0.
           05  journal-there           pic 9 value 0.
       01  table-limit                 pic 9(8) value 20000.
       01  card-table.
           05  known occurs 20000 times.
               10  known-exists        pic 9 comp-5.
               10  known-generation    pic 9(4) comp-5.
               10  known-spent         pic 9(12) comp-5.
               10  known-card-payment  pic 9(12) comp-5.
               10  known-balance       pic 9(14) comp-5.
               10  known-payment       pic 9(12) comp-5.
               10  known-payments      pic 9(10) comp-5.
       01  i                           pic 9(8).
       01  merchants.
           05  filler                  pic x(30) value spaces.
           05  filler                  pic x(30) value "Kiosk".
           05  filler                  pic x(30) value "Bakery Lindt".
           05  filler                  pic x(30)
               value "Station Bookshop".
           05  filler                  pic x(30)
               value "Hotel Continental, Front Desk".
       01  filler redefines merchants.
           05  merchant                pic x(30) occurs 5 times.
       01  merchant-lengths            pic x(10) value "0005121629".
       01  filler redefines merchant-lengths.
           05  merchant-length         pic 99 occurs 5 times.
       procedure division.
       main section.
           perform read-arguments
           perform replay-journal
           perform mend-files
           open extend journal
           if outcome = "35"
               open output journal
           end-if
           perform check-outcome
           open extend switch-log
           if outcome = "35"
               open output switch-log
           end-if
           perform check-outcome
           open i-o cards
           perform check-outcome
           move payment to first-payment
           perform read-clock
           move time-now to time-begun
           move 0 to time-gone
           perform until stopping = 1
               perform pay
               add 1 to done-payments
               if function mod(payment, 50) = 0
                   commit
               end-if
               if function mod(payment, 200) = 0
                   perform post-accounts
               end-if
               if payments-wanted > 0
                       and done-payments >= payments-wanted
                   move 1 to stopping
               end-if
               if seconds-wanted > 0 or rate > 0
                   perform read-clock
                   compute time-gone = time-now - time-begun
                   if time-gone < 0
                       add 8640000 to time-gone
                   end-if
               end-if
               if seconds-wanted > 0
                       and time-gone >= seconds-wanted * 100
                   move 1 to stopping
               end-if
               if rate > 0
                   compute time-due = done-payments * 100 / rate
                   if time-due > time-gone
                       compute pause-ns =
                           (time-due - time-gone) * 10000000
                       call "CBL_OC_NANOSLEEP" using pause-ns
                   end-if
               end-if
           end-perform
           perform post-accounts
           close cards journal switch-log
           display done-payments " payments, "
               operations " operations"
           stop run.

       read-arguments section.
           accept directory from argument-value
           if directory = spaces
               display "usage: card_switch_cobol DIR [--seconds N]"
                   " [--payments N] [--cards N] [--rate N]"
                   " [--seed S]" upon syserr
               stop run returning 2
           end-if
           perform forever
               move spaces to option-name argument
               accept option-name from argument-value
                   on exception exit perform
               end-accept
               accept argument from argument-value
                   on exception exit perform
               end-accept
               evaluate option-name
                   when "--seconds"
                       compute seconds-wanted =
                           function numval(argument)
                   when "--payments"
                       compute payments-wanted =
                           function numval(argument)
                   when "--cards"
                       compute card-count = function numval(argument)
                   when "--rate"
                       compute rate = function numval(argument)
                   when "--seed"
                       compute seed = function numval(argument)
                   when other
                       display "unknown option " option-name
                           upon syserr
                       stop run returning 2
               end-evaluate
           end-perform
           if card-count > table-limit or card-count = 0
               display "--cards is 1 to 20000" upon syserr
               stop run returning 2
           end-if
           string directory delimited by space "/cards.dat"
               delimited by size into cards-path
           string directory delimited by space "/accounts.dat"
               delimited by size into accounts-path
           string directory delimited by space "/journal.dat"
               delimited by size into journal-path
           string directory delimited by space "/journal.new"
               delimited by size into copy-path
           string directory delimited by space "/switch.log"
               delimited by size into log-path.

       check-outcome section.
           if outcome(1:1) not = "0"
               display "card_switch_cobol: file status " outcome
                   upon syserr
               stop run returning 1
           end-if.

       read-clock section.
           accept clock from time
           compute time-now = clock-hundredths
               + 100 * (clock-seconds + 60 * clock-minutes
               + 3600 * clock-hours).

      *> What cards and accounts must be, from the journal alone.
       replay-journal section.
           perform varying i from 1 by 1 until i > card-count
               move 1 to known-exists(i) known-generation(i)
               move 0 to known-spent(i) known-card-payment(i)
                   known-payment(i) known-payments(i)
               move 100000000 to known-balance(i)
           end-perform
           open input journal
           if outcome = "35"
               exit section
           end-if
           perform check-outcome
           perform forever
               read journal
               if outcome not = "00"
                   exit perform
               end-if
               add 4 entry-length to whole-bytes
               move entry-payment to payment
               perform note-entry
           end-perform
           close journal
           call "CBL_CHECK_FILE_EXIST" using journal-path file-details
           if file-size > whole-bytes
               perform copy-journal
           end-if.

       note-entry section.
           move entry-slot to i
           evaluate entry-type
               when "C"
                   move 0 to known-exists(i) known-spent(i)
               when "I"
                   move 1 to known-exists(i)
                   move 0 to known-spent(i)
                   move entry-generation to known-generation(i)
                   move entry-payment to known-card-payment(i)
               when "P"
                   move entry-spent to known-spent(i)
                   move entry-payment to known-card-payment(i)
                   move entry-balance to known-balance(i)
                   move entry-payment to known-payment(i)
                   add 1 to known-payments(i)
           end-evaluate.

       copy-journal section.
           open input journal
           open output journal-copy
           perform check-outcome
           perform until whole-bytes = 0
               read journal
               move entry-record to copy-record
               move entry-length to copy-length
               write copy-record
               perform check-outcome
               subtract 4 entry-length from whole-bytes
           end-perform
           close journal journal-copy
           call "CBL_RENAME_FILE" using copy-path journal-path.

      *> Makes the files, or brings them to what the journal says.
       mend-files section.
           open i-o cards
           if outcome = "35"
               open output cards
               close cards
               open i-o cards
           end-if
           perform check-outcome
           perform varying i from 1 by 1 until i > card-count
               move i to slot-number
               read cards
                   invalid key
                       if known-exists(i) = 1
                           perform fill-card
                           write card-record
                           add 1 to operations
                       end-if
                   not invalid key
                       if known-exists(i) = 0
                           delete cards record
                           add 1 to operations
                       else
                           if card-spent not = known-spent(i)
                                   or card-generation
                                       not = known-generation(i)
                               perform fill-card
                               rewrite card-record
                               add 1 to operations
                           end-if
                       end-if
               end-read
           end-perform
           close cards
           open input accounts
           move 0 to i
           if outcome = "00"
               perform forever
                   read accounts
                   if outcome not = "00"
                       exit perform
                   end-if
                   add 1 to i
               end-perform
               close accounts
               perform post-accounts
           end-if
           if i < card-count
      *> The files were never finished: no payment has been made, so they are made anew.
               open output accounts
               perform check-outcome
               perform varying i from 1 by 1 until i > card-count
                   perform fill-account
                   write account-record
                   add 1 to operations
               end-perform
               close accounts
           end-if.

       fill-card section.
           move spaces to card-record
           compute card-number =
               4000000000000000 + i * 10000 + known-generation(i)
           move "A" to card-state
           move i to card-account
           move 500000 to card-limit
           move known-spent(i) to card-spent
           move known-generation(i) to card-generation
           move known-card-payment(i) to card-payment
           string "HOLDER " i(3:6) delimited by size
               into card-holder.

       fill-account section.
           move spaces to account-record
           move i to account-number
           move 100000000 to account-opening
           move known-balance(i) to account-balance
           move known-payment(i) to account-payment
           move known-payments(i) to account-payments
           string "OWNER " i(3:6) delimited by size
               into account-owner.

       post-accounts section.
           open i-o accounts
           perform check-outcome
           move 0 to i
           perform forever
               read accounts
                   at end exit perform
               end-read
               add 1 to i
               if account-balance not = known-balance(i)
                       or account-payments not = known-payments(i)
                   perform fill-account
                   rewrite account-record
                   add 1 to operations
               end-if
           end-perform
           close accounts.

       draw-number section.
           if draw = 0 and seed > 0
               compute chance = function random(seed)
               move 0 to seed
           else
               compute chance = function random
           end-if
           compute draw = chance * 1000000.

       pay section.
           add 1 to payment
           if seed > 0
               compute seed = function mod(seed * 7919 + payment, 99991)
                   + 1
               move 0 to draw
           end-if
           perform draw-number
           compute i = function mod(draw, card-count) + 1
           perform draw-number
           move spaces to entry-record
           move payment to entry-payment
           move i to entry-slot entry-account slot-number
           compute entry-amount = 100 + function mod(draw, 20000)
           move known-generation(i) to entry-generation
           move known-spent(i) to entry-spent
           move known-balance(i) to entry-balance
           perform draw-number
           evaluate true
               when known-exists(i) = 0
                   move "I" to entry-type
                   compute entry-generation =
                       2 + function mod(payment, 9000)
                   move 0 to entry-amount entry-spent
               when function mod(draw, 100) = 0
                       or known-spent(i) > 450000
                   move "C" to entry-type
                   move 0 to entry-amount
               when known-spent(i) + entry-amount > 500000
                       or known-balance(i) < entry-amount
                   move "D" to entry-type
               when other
                   move "P" to entry-type
                   add entry-amount to entry-spent
                   subtract entry-amount from entry-balance
           end-evaluate
           compute draw = function mod(draw, 5) + 1
           move merchant(draw) to entry-merchant
           compute entry-length = 71 + merchant-length(draw)
           write entry-record
           perform check-outcome
           perform note-entry
           evaluate entry-type
               when "P"
                   perform fill-card
                   rewrite card-record
               when "C"
                   delete cards record
               when "I"
                   perform fill-card
                   write card-record
           end-evaluate
           perform check-outcome
           move spaces to log-line
           string payment " " entry-type " card " entry-slot
               " amount " entry-amount " " entry-merchant(1:30)
               delimited by size into log-line
           write log-line
           add 4 to operations.
