/* A server that is no Python program: it fills memory of each kind, and its two children write to a part. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MB (1 << 20)
#define BLOCKS 4096 /* of 1,000 bytes: four of them have a page */

static char data[2 * MB] = {1}, zeroed[2 * MB];
static char *block[BLOCKS];

int main(void)
{
    char *shared = mmap(NULL, 4 * MB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *large = malloc(4 * MB);
    memset(shared, 1, 4 * MB), memset(large, 1, 4 * MB), memset(data, 1, 2 * MB), memset(zeroed, 1, 2 * MB);
    for (int i = 0; i < BLOCKS; i++)
        block[i] = memset(malloc(1000), 1, 1000);
    for (int child = 0; child < 2; child++) {
        if (fork() == 0) {
            memset(shared, 2, 2 * MB), memset(large, 2, MB), memset(data, 2, MB), memset(zeroed, 2, MB);
            for (int i = 0; i < BLOCKS / 4; i++)
                memset(block[i], 2, 1000);
            puts("ready");
            fflush(stdout);
            pause();
        }
    }
    wait(NULL), wait(NULL);
}
