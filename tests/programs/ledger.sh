#!/bin/sh
# Keeps a text log and a fixed-length ledger the shell way.
#
#   sh ledger.sh DIR ROUNDS
#
# ledger.dat   fixed, 64-byte records: dd with seek and notrunc, printf >>
# log.txt      text lines: echo >>, tee -a, a here-document, sed -i at the end
set -eu
directory=$1
rounds=$2
turn=0
while [ "$turn" -lt "$rounds" ]; do
    turn=$((turn + 1))
    echo "turn $turn" >> "$directory/log.txt"
    printf '%-64s' "record $turn" >> "$directory/ledger.dat"
    case $((turn % 4)) in
    0) printf '%-64s' "again $turn" | dd of="$directory/ledger.dat" bs=64 seek=$((turn / 2)) conv=notrunc status=none ;;
    1) echo "tee $turn" | tee -a "$directory/log.txt" > /dev/null ;;
    2) cat >> "$directory/log.txt" <<END
several lines at once: $turn
and another
END
        ;;
    esac
done
sed -i 's/^tee/TEE/' "$directory/log.txt"
: > "$directory/empty.txt"
