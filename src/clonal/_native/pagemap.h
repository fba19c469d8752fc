/* Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#ifndef CLONAL_PAGEMAP_H
#define CLONAL_PAGEMAP_H

#define PM_PRESENT (1ULL << 63)
#define PM_SWAPPED (1ULL << 62)
#define PM_FILE (1ULL << 61) /* of a file or of shared memory */
#define PM_GUARD (1ULL << 58)
#define PM_WATCHED (1ULL << 57)     /* write-protected by userfaultfd */
#define PM_EXCLUSIVE (1ULL << 56)   /* no other entry maps it */
#define PM_FRAME ((1ULL << 55) - 1) /* 0 without CAP_SYS_ADMIN */

#endif
