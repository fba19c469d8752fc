/* The extension module's file executed as a program (-Wl,-e): no interpreter, no libc, no relocations.
 * waiter.c has the entry and chooses by argv[0]. */
#ifndef CLONAL_PROGRAM_H
#define CLONAL_PROGRAM_H

#define FREESTANDING __attribute__((no_sanitize("address"), no_sanitize("undefined")))

/* puppet.c: serves the socket that is descriptor 0 until it closes. `argc` > 1: it is the stage. */
__attribute__((noreturn, visibility("hidden"))) void clonal_puppet_main(long argc);

#endif
