/*
 * A small card switch: it authorises payments against files, the way such programs do.
 *
 *   card_switch DIR [--seconds N | --payments N] [--seed S] [--cards N] [--rate N] [--sync]
 *   card_switch --audit DIR
 *
 * cards.dat     relative, GnuCOBOL's layout: slots of an 8-byte length and 150 bytes
 * accounts.dat  fixed, 300-byte records
 * journal.dat   variable sequential, GnuCOBOL format 0: u16 big-endian length, two zero bytes, data
 * switch.log    text lines, written through stdio
 *
 * A payment is one unit of work: the card's slot is locked (fcntl), the journal record is appended,
 * card and account are rewritten, the log gets a line, and the lock is let go. With --sync the
 * journal is synced before that. Without --seconds and --payments it goes on until SIGTERM.
 *
 * Files that exist are taken up again. The journal says what happened: a record cut short at its
 * end is cut off, and the last payment in it is done again where the switch was killed before card
 * and account were written. One switch at a time works on a directory; a second one waits at the
 * first locked card, but the two would not agree on payment numbers.
 *
 * --audit replays the journal and compares every account and every card with what it says. The
 * last payment may be half done (the switch was killed in it); anything else is an error. Exit 0:
 * the files agree; 1: they don't, or one can't be read; 2: wrong arguments.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    CARD_SIZE = 150,
    SLOT_SIZE = 8 + CARD_SIZE,
    ACCOUNT_SIZE = 300,
    PREFIX_SIZE = 4,
    ENTRY_FIXED = 71,   /* type 1, payment 12, slot 8, generation 4, account 8, amount 12, spent 12, balance 14 */
    MERCHANT_MAX = 60,
    ENTRY_MAX = ENTRY_FIXED + MERCHANT_MAX,
    LOG_FLUSH_EVERY = 50,
};
static const int64_t OPENING_BALANCE = 100000000;
static const int64_t CARD_LIMIT = 500000;

/* What a card slot says. An empty slot has exists = 0. */
struct card {
    int exists;
    int generation;
    int64_t spent;
    int64_t last_payment;
};

struct account {
    int64_t opening;
    int64_t balance;
    int64_t last_payment;
    int64_t payments;
};

/* One journal record: P payment, D declined, C card closed, I card issued again. */
struct entry {
    char type;
    int64_t payment;
    int64_t slot;
    int generation;
    int64_t account;
    int64_t amount;
    int64_t spent_after;
    int64_t balance_after;
    char merchant[MERCHANT_MAX + 1];
};

struct files {
    int cards, accounts, journal;
    FILE *log;
};

static volatile sig_atomic_t stopping;
static int64_t operations;
static uint64_t random_state;

static void stop(int signal_number) {
    (void)signal_number;
    stopping = 1;
}

static void die(const char *format, ...) {
    int cause = errno;
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "card_switch: ");
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (cause) fprintf(stderr, ": %s", strerror(cause));
    fprintf(stderr, "\n");
    exit(1);
}

static uint64_t random_next(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static int64_t random_below(int64_t limit) { return (int64_t)(random_next() % (uint64_t)limit); }

static void write_all(int fd, const void *bytes, size_t length, const char *what) {
    ssize_t done = write(fd, bytes, length);
    operations++;
    if (done != (ssize_t)length) {
        if (done >= 0) errno = ENOSPC;
        die("writing %s", what);
    }
}

static void pwrite_all(int fd, const void *bytes, size_t length, off_t offset, const char *what) {
    ssize_t done = pwrite(fd, bytes, length, offset);
    operations++;
    if (done != (ssize_t)length) {
        if (done >= 0) errno = ENOSPC;
        die("writing %s", what);
    }
}

/* Digits are written and read at fixed places, as a record description has them. */
static void put_digits(char *at, int width, int64_t value) {
    for (int i = width - 1; i >= 0; i--) {
        at[i] = (char)('0' + value % 10);
        value /= 10;
    }
}

static int64_t get_digits(const char *at, int width) {
    int64_t value = 0;
    for (int i = 0; i < width; i++) {
        if (at[i] < '0' || at[i] > '9') return -1;
        value = value * 10 + (at[i] - '0');
    }
    return value;
}

static void encode_card(char *record, int64_t slot, const struct card *card) {
    char name[32];
    memset(record, ' ', CARD_SIZE);
    put_digits(record, 16, 4000000000000000 + slot * 10000 + card->generation);
    record[16] = 'A';
    put_digits(record + 17, 8, slot);
    put_digits(record + 25, 12, CARD_LIMIT);
    put_digits(record + 37, 12, card->spent);
    put_digits(record + 49, 4, card->generation);
    put_digits(record + 53, 12, card->last_payment);
    int length = snprintf(name, sizeof name, "HOLDER %06lld", (long long)slot);
    memcpy(record + 65, name, (size_t)length);
}

/* 0: the slot is past the end of the file. */
static int read_card(int fd, int64_t slot, struct card *card) {
    char bytes[SLOT_SIZE];
    uint64_t length;
    ssize_t got = pread(fd, bytes, sizeof bytes, (slot - 1) * SLOT_SIZE);
    if (got < 0) die("reading card %lld", (long long)slot);
    memset(card, 0, sizeof *card);
    if (got < SLOT_SIZE) return 0;
    memcpy(&length, bytes, sizeof length);
    if (length == 0) return 1;
    card->exists = 1;
    card->spent = get_digits(bytes + 8 + 37, 12);
    card->generation = (int)get_digits(bytes + 8 + 49, 4);
    card->last_payment = get_digits(bytes + 8 + 53, 12);
    return 1;
}

/* As libcob does it: the length first, then the record. */
static void write_card(int fd, int64_t slot, const struct card *card) {
    char record[CARD_SIZE];
    uint64_t length = CARD_SIZE;
    encode_card(record, slot, card);
    if (lseek(fd, (slot - 1) * SLOT_SIZE, SEEK_SET) < 0) die("seeking to card %lld", (long long)slot);
    write_all(fd, &length, sizeof length, "a card's length");
    write_all(fd, record, sizeof record, "a card");
}

static void rewrite_card(int fd, int64_t slot, const struct card *card) {
    char record[CARD_SIZE];
    encode_card(record, slot, card);
    if (lseek(fd, (slot - 1) * SLOT_SIZE + 8, SEEK_SET) < 0) die("seeking to card %lld", (long long)slot);
    write_all(fd, record, sizeof record, "a card");
}

static void delete_card(int fd, int64_t slot) {
    uint64_t length = 0;
    if (lseek(fd, (slot - 1) * SLOT_SIZE, SEEK_SET) < 0) die("seeking to card %lld", (long long)slot);
    write_all(fd, &length, sizeof length, "a deleted card's length");
}

static int read_account(int fd, int64_t number, struct account *account) {
    char bytes[ACCOUNT_SIZE];
    ssize_t got = pread(fd, bytes, sizeof bytes, (number - 1) * ACCOUNT_SIZE);
    if (got < 0) die("reading account %lld", (long long)number);
    if (got < ACCOUNT_SIZE) return 0;
    account->opening = get_digits(bytes + 8, 14);
    account->balance = get_digits(bytes + 22, 14);
    account->last_payment = get_digits(bytes + 36, 12);
    account->payments = get_digits(bytes + 48, 10);
    return 1;
}

static void write_account(int fd, int64_t number, const struct account *account) {
    char record[ACCOUNT_SIZE], owner[32];
    memset(record, ' ', sizeof record);
    put_digits(record, 8, number);
    put_digits(record + 8, 14, account->opening);
    put_digits(record + 22, 14, account->balance);
    put_digits(record + 36, 12, account->last_payment);
    put_digits(record + 48, 10, account->payments);
    int length = snprintf(owner, sizeof owner, "OWNER %06lld", (long long)number);
    memcpy(record + 58, owner, (size_t)length);
    pwrite_all(fd, record, sizeof record, (number - 1) * ACCOUNT_SIZE, "an account");
}

static void append_entry(int fd, const struct entry *entry) {
    char record[ENTRY_MAX];
    size_t merchant = strlen(entry->merchant), length = ENTRY_FIXED + merchant;
    unsigned char prefix[PREFIX_SIZE] = {(unsigned char)(length >> 8), (unsigned char)length, 0, 0};
    record[0] = entry->type;
    put_digits(record + 1, 12, entry->payment);
    put_digits(record + 13, 8, entry->slot);
    put_digits(record + 21, 4, entry->generation);
    put_digits(record + 25, 8, entry->account);
    put_digits(record + 33, 12, entry->amount);
    put_digits(record + 45, 12, entry->spent_after);
    put_digits(record + 57, 14, entry->balance_after);
    memcpy(record + ENTRY_FIXED, entry->merchant, merchant);
    write_all(fd, prefix, sizeof prefix, "a journal record's length");
    write_all(fd, record, length, "a journal record");
}

/* 1: a whole record was read; 0: the journal ends here, whole or cut short; -1: no such record can be. */
static int read_entry(FILE *journal, struct entry *entry) {
    unsigned char prefix[PREFIX_SIZE];
    char record[ENTRY_MAX];
    if (fread(prefix, 1, sizeof prefix, journal) != sizeof prefix) return 0;
    size_t length = (size_t)prefix[0] << 8 | prefix[1];
    if (prefix[2] || prefix[3] || length < ENTRY_FIXED || length > ENTRY_MAX) return -1;
    if (fread(record, 1, length, journal) != length) return 0;
    memset(entry, 0, sizeof *entry);
    entry->type = record[0];
    entry->payment = get_digits(record + 1, 12);
    entry->slot = get_digits(record + 13, 8);
    entry->generation = (int)get_digits(record + 21, 4);
    entry->account = get_digits(record + 25, 8);
    entry->amount = get_digits(record + 33, 12);
    entry->spent_after = get_digits(record + 45, 12);
    entry->balance_after = get_digits(record + 57, 14);
    memcpy(entry->merchant, record + ENTRY_FIXED, length - ENTRY_FIXED);
    return 1;
}

/* What a journal record makes of its card and account. Doing it twice changes nothing. */
static void apply_entry(struct files *files, const struct entry *entry, int again) {
    struct card card, before;
    struct account account;
    memset(&card, 0, sizeof card);
    card.exists = 1;
    card.generation = entry->generation;
    card.spent = entry->spent_after;
    card.last_payment = entry->payment;
    switch (entry->type) {
    case 'C':
        delete_card(files->cards, entry->slot);
        break;
    case 'I':
        write_card(files->cards, entry->slot, &card);
        break;
    case 'P':
        if (again && read_card(files->cards, entry->slot, &before) && before.last_payment >= entry->payment)
            ; /* the card was written before the switch was killed */
        else
            rewrite_card(files->cards, entry->slot, &card);
        if (!read_account(files->accounts, entry->account, &account)) die("account %lld is missing", (long long)entry->account);
        if (account.last_payment >= entry->payment) break;
        account.balance = entry->balance_after;
        account.last_payment = entry->payment;
        account.payments++;
        write_account(files->accounts, entry->account, &account);
        break;
    default:
        break;
    }
}

static void lock_card(int fd, int64_t slot, short type) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = (slot - 1) * SLOT_SIZE, .l_len = SLOT_SIZE};
    while (fcntl(fd, F_SETLKW, &lock) != 0)
        if (errno != EINTR) die("locking card %lld", (long long)slot);
}

static char *path_in(const char *directory, const char *name) {
    char *path;
    if (asprintf(&path, "%s/%s", directory, name) < 0) die("no memory");
    return path;
}

static int open_file(const char *directory, const char *name, int flags) {
    char *path = path_in(directory, name);
    int fd = open(path, flags, 0644);
    if (fd < 0) die("opening %s", path);
    free(path);
    return fd;
}

/* Takes the files up, or makes them. Returns the number of the last payment. */
static int64_t take_up(struct files *files, const char *directory, int64_t *cards) {
    struct entry entry, last;
    struct card card;
    struct account account;
    struct stat status;
    files->accounts = open_file(directory, "accounts.dat", O_RDWR | O_CREAT);
    files->cards = open_file(directory, "cards.dat", O_RDWR | O_CREAT);
    files->journal = open_file(directory, "journal.dat", O_RDWR | O_CREAT | O_APPEND);

    char *path = path_in(directory, "journal.dat");
    FILE *journal = fopen(path, "r");
    if (!journal) die("opening %s", path);
    memset(&last, 0, sizeof last);
    off_t whole = 0;
    int outcome;
    while ((outcome = read_entry(journal, &entry)) == 1) {
        last = entry;
        whole = ftello(journal);
    }
    errno = 0;
    if (outcome < 0) die("%s has no journal record at byte %lld", path, (long long)whole);
    fclose(journal);
    if (fstat(files->journal, &status) != 0) die("looking at %s", path);
    if (status.st_size > whole) {
        if (ftruncate(files->journal, whole) != 0) die("cutting %s", path);
        operations++;
    }
    free(path);

    if (last.payment == 0) {
        /* Making the files may have been cut short as well: what is missing is added. */
        for (int64_t number = 1; number <= *cards; number++) {
            if (!read_account(files->accounts, number, &account)) {
                account = (struct account){OPENING_BALANCE, OPENING_BALANCE, 0, 0};
                write_account(files->accounts, number, &account);
            }
        }
        for (int64_t slot = 1; slot <= *cards; slot++) {
            if (!read_card(files->cards, slot, &card) || card.generation <= 0) {
                card = (struct card){1, 1, 0, 0};
                write_card(files->cards, slot, &card);
            }
        }
    } else {
        if (fstat(files->accounts, &status) != 0) die("looking at accounts.dat");
        *cards = status.st_size / ACCOUNT_SIZE;
        lock_card(files->cards, last.slot, F_WRLCK);
        apply_entry(files, &last, 1);
        lock_card(files->cards, last.slot, F_UNLCK);
    }

    path = path_in(directory, "switch.log");
    files->log = fopen(path, "a");
    if (!files->log) die("opening %s", path);
    free(path);
    return last.payment;
}

static const char *const MERCHANTS[] = {
    "", "Kiosk", "Bakery Lindt", "Station Bookshop", "Hotel Continental, Front Desk",
    "Municipal Parking Authority, Garage North", "Airline Ticket Office, International Departures Hall B",
};

static void pay(struct files *files, int64_t payment, int64_t cards, int sync) {
    struct entry entry;
    struct card card;
    struct account account;
    memset(&entry, 0, sizeof entry);
    entry.payment = payment;
    entry.slot = 1 + random_below(cards);
    entry.account = entry.slot;
    entry.amount = 100 + random_below(20000);
    strcpy(entry.merchant, MERCHANTS[random_below((int64_t)(sizeof MERCHANTS / sizeof *MERCHANTS))]);
    int close_it = random_below(100) == 0;

    lock_card(files->cards, entry.slot, F_WRLCK);
    if (!read_card(files->cards, entry.slot, &card)) die("card %lld is missing", (long long)entry.slot);
    if (!read_account(files->accounts, entry.account, &account)) die("account %lld is missing", (long long)entry.account);
    entry.generation = card.generation;
    entry.spent_after = card.spent;
    entry.balance_after = account.balance;
    if (!card.exists) {
        /* The slot keeps no generation once it is deleted; the payment's number gives a new one. */
        entry.type = 'I';
        entry.generation = 2 + (int)(payment % 9000);
        entry.amount = entry.spent_after = 0;
    } else if (close_it || card.spent > CARD_LIMIT * 9 / 10) {
        entry.type = 'C';
        entry.amount = 0;
    } else if (card.spent + entry.amount > CARD_LIMIT || account.balance < entry.amount) {
        entry.type = 'D';
    } else {
        entry.type = 'P';
        entry.spent_after += entry.amount;
        entry.balance_after -= entry.amount;
    }
    append_entry(files->journal, &entry);
    apply_entry(files, &entry, 0);
    fprintf(files->log, "%012lld %c card %lld amount %lld.%02lld %s\n", (long long)entry.payment, entry.type,
            (long long)entry.slot, (long long)(entry.amount / 100), (long long)(entry.amount % 100), entry.merchant);
    operations++;
    if (payment % LOG_FLUSH_EVERY == 0 && fflush(files->log) != 0) die("writing switch.log");
    if (sync && fdatasync(files->journal) != 0) die("syncing journal.dat");
    lock_card(files->cards, entry.slot, F_UNLCK);
}

/* --audit */

static int complaints;

static void complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (complaints++ < 20) {
        vprintf(format, arguments);
        printf("\n");
    }
    va_end(arguments);
}

static int audit(const char *directory) {
    struct stat status;
    struct entry entry, last;
    struct card card;
    struct account account;
    int cards_fd = open_file(directory, "cards.dat", O_RDONLY);
    int accounts_fd = open_file(directory, "accounts.dat", O_RDONLY);
    if (fstat(accounts_fd, &status) != 0) die("looking at accounts.dat");
    int64_t count = status.st_size / ACCOUNT_SIZE, payments = 0, paid = 0, half_done = 0;

    /* The state that the journal leads to, and the one just before its last record. */
    struct card *cards = calloc((size_t)count + 1, sizeof *cards);
    struct account *accounts = calloc((size_t)count + 1, sizeof *accounts);
    struct card card_before = {1, 1, 0, 0};
    struct account account_before = {OPENING_BALANCE, OPENING_BALANCE, 0, 0};
    if (!cards || !accounts) die("no memory");
    for (int64_t i = 1; i <= count; i++) {
        cards[i] = card_before;
        accounts[i] = account_before;
    }
    memset(&last, 0, sizeof last);

    char *path = path_in(directory, "journal.dat");
    FILE *journal = fopen(path, "r");
    if (!journal) die("opening %s", path);
    int outcome;
    off_t whole = 0;
    while ((outcome = read_entry(journal, &entry)) == 1) {
        whole = ftello(journal);
        if (entry.payment != last.payment + 1)
            complain("journal: payment %lld follows %lld", (long long)entry.payment, (long long)last.payment);
        last = entry;
        payments++;
        if (entry.slot < 1 || entry.slot > count || entry.account != entry.slot) {
            complain("journal: payment %lld names card %lld, account %lld", (long long)entry.payment,
                     (long long)entry.slot, (long long)entry.account);
            break;
        }
        card_before = cards[entry.slot];
        account_before = accounts[entry.account];
        struct card *mine = &cards[entry.slot];
        struct account *owner = &accounts[entry.account];
        if (entry.type == 'C') {
            memset(mine, 0, sizeof *mine);
        } else if (entry.type == 'I') {
            *mine = (struct card){1, entry.generation, 0, entry.payment};
        } else if (entry.type == 'P') {
            paid += entry.amount;
            mine->spent += entry.amount;
            mine->last_payment = entry.payment;
            owner->balance -= entry.amount;
            owner->last_payment = entry.payment;
            owner->payments++;
            if (mine->spent != entry.spent_after || owner->balance != entry.balance_after)
                complain("journal: payment %lld doesn't follow from those before it", (long long)entry.payment);
        }
    }
    if (outcome < 0) complain("journal: no record at byte %lld", (long long)whole);
    fclose(journal);

    int64_t opening = 0, balance = 0;
    for (int64_t i = 1; i <= count; i++) {
        if (!read_account(accounts_fd, i, &account)) continue;
        opening += account.opening;
        balance += account.balance;
        struct account *expected = &accounts[i];
        if (account.balance != expected->balance || account.last_payment != expected->last_payment ||
            account.payments != expected->payments) {
            if (i == last.account && account.balance == account_before.balance &&
                account.last_payment == account_before.last_payment)
                half_done = last.amount;
            else
                complain("account %lld: balance %lld, the journal says %lld", (long long)i, (long long)account.balance,
                         (long long)expected->balance);
        }
        int there = read_card(cards_fd, i, &card);
        if (!there && payments == 0) continue; /* the switch was killed while it made its files */
        struct card *card_expected = &cards[i];
        int same = there && card.exists == card_expected->exists &&
                   (!card.exists || (card.spent == card_expected->spent && card.generation == card_expected->generation));
        if (!same && i == last.slot) {
            /* Killed between two writes: as before, or issued with the length written and the old
               content still behind it. */
            same = there && card.exists == card_before.exists && card.spent == card_before.spent &&
                   card.generation == card_before.generation;
            same = same || (last.type == 'I' && card.exists);
        }
        if (!same)
            complain("card %lld: spent %lld, the journal says %lld", (long long)i, (long long)card.spent,
                     (long long)card_expected->spent);
    }
    if (balance != opening - paid + half_done)
        complain("balances are %lld, but %lld opening less %lld paid is %lld", (long long)balance, (long long)opening,
                 (long long)paid, (long long)(opening - paid));
    if (complaints) {
        printf("audit: %d complaints\n", complaints);
        return 1;
    }
    printf("audit: %lld payments, %lld accounts, opening %lld, paid %lld, balance %lld: consistent\n",
           (long long)payments, (long long)count, (long long)opening, (long long)paid, (long long)balance);
    return 0;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void usage(void) {
    fprintf(stderr, "usage: card_switch DIR [--seconds N | --payments N] [--seed S] [--cards N] [--rate N] [--sync]\n"
                    "       card_switch --audit DIR\n");
    exit(2);
}

int main(int argc, char **argv) {
    const char *directory = NULL;
    double seconds = 0;
    int64_t payments = 0, cards = 200, rate = 0, seed = 1;
    int sync = 0;
    if (argc == 3 && strcmp(argv[1], "--audit") == 0) return audit(argv[2]);
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (strcmp(argument, "--sync") == 0) {
            sync = 1;
        } else if (argument[0] != '-') {
            if (directory) usage();
            directory = argument;
        } else if (i + 1 == argc) {
            usage();
        } else if (strcmp(argument, "--seconds") == 0) {
            seconds = atof(argv[++i]);
        } else if (strcmp(argument, "--payments") == 0) {
            payments = atoll(argv[++i]);
        } else if (strcmp(argument, "--seed") == 0) {
            seed = atoll(argv[++i]);
        } else if (strcmp(argument, "--cards") == 0) {
            cards = atoll(argv[++i]);
        } else if (strcmp(argument, "--rate") == 0) {
            rate = atoll(argv[++i]);
        } else {
            usage();
        }
    }
    if (!directory || cards < 1 || cards > 9999999 || rate < 0) usage();

    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = stop;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);

    struct files files;
    int64_t payment = take_up(&files, directory, &cards), first = payment;
    random_state = (uint64_t)(seed * 2654435761 + payment) | 1;
    for (int i = 0; i < 8; i++) random_next();
    int64_t begin = now_ns(), end = begin + (int64_t)(seconds * 1e9);
    while (!stopping && (payments == 0 || payment - first < payments)) {
        if (seconds > 0 && now_ns() >= end) break;
        if (rate > 0) {
            int64_t due = begin + (payment - first) * 1000000000 / rate, early = due - now_ns();
            if (early > 0) {
                struct timespec pause = {early / 1000000000, early % 1000000000};
                nanosleep(&pause, NULL);
            }
        }
        pay(&files, ++payment, cards, sync);
    }
    double elapsed_us = (double)(now_ns() - begin) / 1000, done = payment > first ? (double)(payment - first) : 1;
    if (fclose(files.log) != 0) die("writing switch.log");
    close(files.journal);
    close(files.accounts);
    close(files.cards);
    printf("%lld payments, %lld operations, us each: %.2f\n", (long long)(payment - first), (long long)operations,
           elapsed_us / done);
    return 0;
}
