/*
 * Units of work that a program marks itself, for groups with unit_of_work = "api".
 *
 *     counterfoil_begin();
 *     ... writes to any files ...
 *     counterfoil_commit();
 *
 * What the process wrote in between becomes visible in every target together. Nothing is linked and
 * nothing is needed: a program that isn't run under Counterfoil, or is linked statically, does nothing
 * here. All three return 0, whatever happens, and leave errno alone.
 *
 * Units belong to the process: its threads share them. They nest; the outermost end counts. An abort
 * ends a unit like a commit, since files have no undo: what was written until then is published.
 *
 * For C and C++, GCC and Clang, on x86-64 and aarch64; elsewhere the calls do nothing.
 */
#ifndef COUNTERFOIL_H
#define COUNTERFOIL_H

/* The address that the loader found, or null. Through the global offset table by hand: otherwise
   programs that aren't position independent would have null linked in. */
#if defined(__x86_64__)
#define COUNTERFOIL_FIND_(name, found) \
    __asm__(".weak " name "\n\tmovq " name "@GOTPCREL(%%rip), %0" : "=r"(found))
#elif defined(__aarch64__)
#define COUNTERFOIL_FIND_(name, found) \
    __asm__(".weak " name "\n\tadrp %0, :got:" name "\n\tldr %0, [%0, :got_lo12:" name "]" : "=r"(found))
#else
#define COUNTERFOIL_FIND_(name, found) ((found) = 0)
#endif

static inline int counterfoil_begin_(void) {
    int (*found)(void);
    COUNTERFOIL_FIND_("counterfoil_begin", found);
    return found ? found() : 0;
}

static inline int counterfoil_commit_(void) {
    int (*found)(void);
    COUNTERFOIL_FIND_("counterfoil_commit", found);
    return found ? found() : 0;
}

static inline int counterfoil_abort_(void) {
    int (*found)(void);
    COUNTERFOIL_FIND_("counterfoil_abort", found);
    return found ? found() : 0;
}

/* A unit of work begins. */
#define counterfoil_begin() counterfoil_begin_()
/* It is complete. */
#define counterfoil_commit() counterfoil_commit_()
/* It is given up. */
#define counterfoil_abort() counterfoil_abort_()

#endif
