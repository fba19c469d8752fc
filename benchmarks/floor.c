/* The floor: a minimal C program forks, the child writes one byte into a pipe and ends. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 100;
    for (int i = 0; i < rounds; i++) {
        int ends[2];
        char byte = 1;
        double start = now_us();
        if (pipe(ends) < 0)
            return 1;
        pid_t pid = fork();
        if (pid == 0)
            _exit(write(ends[1], &byte, 1) != 1);
        if (pid < 0 || read(ends[0], &byte, 1) != 1)
            return 1;
        printf("%.2f\n", now_us() - start);
        waitpid(pid, NULL, 0);
        close(ends[0]);
        close(ends[1]);
    }
    return 0;
}
