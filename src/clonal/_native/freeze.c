/* clonal._native.freeze: stop the threads, plan, switch, let them go. */
#define _GNU_SOURCE
#include "native.h"

#include "image.h"
#include "stop.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define VMA_CAPACITY (1l << 17)
#define PIECE_CAPACITY (1l << 19)
#define CHUNK_CAPACITY (1l << 18)
#define DROP_CAPACITY (1l << 17)
#define KEEP_CAPACITY (1l << 16)
#define TEXT_BYTES (64ul << 10)
#define STAGING_BYTES                                                                                        \
    (1ul << 30) /* of addresses only: a chunk and two huge pages, which are 512 MiB on some arm64 */

#define TLS_BYTES (8ul << 10)     /* around the thread pointer: struct pthread, static TLS, rseq */
#define STACK_BELOW (128ul << 10) /* below a stack pointer: red zone, signal frames */
#define STACK_ABOVE (8ul << 20)

extern const ptrdiff_t __rseq_offset __attribute__((weak)); /* glibc >= 2.35 */

/* One mapping with all that a freeze writes to while it runs. */
struct scratch {
    struct vma vmas[VMA_CAPACITY];
    struct piece pieces[PIECE_CAPACITY];
    struct chunk chunks[CHUNK_CAPACITY];
    struct range drops[DROP_CAPACITY];
    struct range keep[KEEP_CAPACITY];
    uint64_t entries[WINDOW_PAGES];
    unsigned char classes[WINDOW_PAGES];
    char text[TEXT_BYTES];
};

struct job {
    struct scratch *scratch;
    struct plan plan;
    struct image image;
    struct stop_result stopped;
    uint64_t staging; /* PROT_NONE reserve, unaligned */
    long max_vmas;
    int stop, did_stop;
    long vmas_before;
    long error;
    const char *error_call;
};

static void keep_range(struct job *job, uint64_t start, uint64_t end)
{
    struct plan *plan = &job->plan;
    if (start >= end)
        return;
    if (plan->keep_count == KEEP_CAPACITY) {
        job->error = -ENOSPC;
        job->error_call = "too many ranges to keep";
        return;
    }
    uint64_t mask = plan->page - 1;
    plan->keep[plan->keep_count++] = (struct range){start & ~mask, (end + mask) & ~mask};
}

static const struct vma *find_vma(const struct plan *plan, uint64_t address)
{
    for (long i = 0; i < plan->vma_count; i++)
        if (plan->vmas[i].start <= address && address < plan->vmas[i].end)
            return &plan->vmas[i];
    return NULL;
}

/* Keeps what the kernel writes for a thread (rseq, tid, robust list, all in or near its control block) and
 * the stack it stands on. */
static void keep_thread(struct job *job, uint64_t stack, uint64_t tls)
{
    keep_range(job, tls - TLS_BYTES, tls + TLS_BYTES);
    if (&__rseq_offset)
        keep_range(job, tls + __rseq_offset, tls + __rseq_offset + 64);
    const struct vma *vma = find_vma(&job->plan, stack);
    if (!vma || vma->keep == KEEP_STACK)
        return;
    uint64_t start = stack - vma->start > STACK_BELOW ? stack - STACK_BELOW : vma->start;
    uint64_t end = vma->end - stack > STACK_ABOVE ? stack + STACK_ABOVE : vma->end;
    if (tls > stack && tls < end)
        end = tls;
    keep_range(job, start, end);
}

static void sift_down(struct range *ranges, long root, long count)
{
    for (long child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && ranges[child + 1].start > ranges[child].start)
            child++;
        if (ranges[root].start >= ranges[child].start)
            return;
        struct range swap = ranges[root];
        ranges[root] = ranges[child];
        ranges[child] = swap;
    }
}

/* Heap sort, then overlapping ranges are joined: the plan searches them by bisection. */
static void sort_keep(struct plan *plan)
{
    struct range *ranges = plan->keep;
    long count = plan->keep_count;
    for (long i = count / 2 - 1; i >= 0; i--)
        sift_down(ranges, i, count);
    for (long last = count - 1; last > 0; last--) {
        struct range swap = ranges[0];
        ranges[0] = ranges[last];
        ranges[last] = swap;
        sift_down(ranges, 0, last);
    }
    long kept = 0;
    for (long i = 0; i < count; i++) {
        if (kept && ranges[i].start <= ranges[kept - 1].end) {
            if (ranges[i].end > ranges[kept - 1].end)
                ranges[kept - 1].end = ranges[i].end;
        } else {
            ranges[kept++] = ranges[i];
        }
    }
    plan->keep_count = kept;
}

static int fail(struct job *job, const char *call, long result)
{
    if (result >= 0 && !job->error)
        return 0;
    if (!job->error) {
        job->error = result;
        job->error_call = call;
    }
    return -1;
}

static int collect_keep(struct job *job)
{
    uint64_t start, end;
    for (long i = 0; i < job->plan.vma_count; i++) /* scratch is not memory of the process: not reported */
        if (job->plan.vmas[i].dont_dump && job->plan.vmas[i].start == (uint64_t)job->scratch)
            job->plan.vmas[i].anonymous = 0;
    keep_range(job, (uint64_t)job->scratch, (uint64_t)(job->scratch + 1));
    stop_memory(&start, &end);
    keep_range(job, start, end);
    keep_thread(job, (uint64_t)__builtin_frame_address(0), (uint64_t)__builtin_thread_pointer());
    for (int i = 0; i < job->stopped.count; i++)
        keep_thread(job, job->stopped.threads[i].stack, job->stopped.threads[i].tls);
    sort_keep(&job->plan);
    return fail(job, "", 0);
}

/* Plans; where that would make more VMAs than the process may have, fills larger gaps. */
static int plan_within_limit(struct job *job)
{
    struct plan *plan = &job->plan;
    for (;; plan->gap = plan->gap * 8 + 8) {
        make_plan(plan);
        if (fail(job, "reading pagemap", plan->error))
            return -1;
        if (plan->vma_count + 2 * plan->piece_count + plan->chunk_count < job->max_vmas)
            return 0;
        if (plan->gap > 1 << 18)
            return fail(job, "vm.max_map_count is too small", -ENOMEM);
    }
}

static int reserve_staging(struct job *job)
{
    long area =
        SYS(SYS_mmap, 0, STAGING_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fail(job, "mmap of the staging area", area))
        return -1;
    job->staging = area;
    job->image.staging = (area + job->plan.block - 1) / job->plan.block * job->plan.block;
    return 0;
}

/* With the other threads stopped. Nothing has been changed when `error` is set here; errors of the switch
 * itself are in image.error. */
static void plan_and_switch(struct job *job)
{
    struct plan *plan = &job->plan;
    plan->vma_count = read_vmas(job->scratch->vmas, VMA_CAPACITY, job->scratch->text, TEXT_BYTES);
    if (fail(job, "reading /proc/self/smaps", plan->vma_count))
        return;
    job->vmas_before = plan->vma_count;
    if (collect_keep(job) || plan_within_limit(job) || plan->piece_count == 0)
        return;
    if (reserve_staging(job))
        return;
    open_image(&job->image);
    if (job->image.memfd >= 0)
        switch_pieces(&job->image);
    else
        fail(job, job->image.error_call, job->image.error);
    SYS(SYS_munmap, job->staging, STAGING_BYTES);
}

static void run(struct job *job)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (job->stop && stop_threads(&job->stopped) == 0)
        job->did_stop = 1;
    if (!job->stop || job->did_stop)
        plan_and_switch(job);
    if (job->did_stop)
        release_threads();
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* A list of (start, end) pairs into scratch. 0, or -1 with an exception set. */
static int read_ranges(struct job *job, PyObject *list)
{
    PyObject *items = PySequence_Fast(list, "keep must be a sequence of (start, end)");
    if (!items)
        return -1;
    int result = 0;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items) && result == 0; i++) {
        unsigned long long start, end;
        result = PyArg_ParseTuple(PySequence_Fast_GET_ITEM(items, i), "KK", &start, &end) ? 0 : -1;
        if (result == 0)
            keep_range(job, start, end);
    }
    Py_DECREF(items);
    return result;
}

static PyObject *kept_list(const struct plan *plan)
{
    PyObject *list = PyList_New(0);
    for (int reason = 1; list && reason < KEEP_COUNT; reason++) {
        if (!plan->kept[reason])
            continue;
        PyObject *item = Py_BuildValue("(iK)", reason, (unsigned long long)plan->kept[reason]);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *thread_ids(const struct stop_result *stopped)
{
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < stopped->count; i++) {
        PyObject *tid = PyLong_FromLong(stopped->threads[i].tid);
        if (!tid || PyList_Append(list, tid) < 0)
            Py_CLEAR(list);
        Py_XDECREF(tid);
    }
    return list;
}

static PyObject *report(const struct job *job)
{
    const struct image *image = &job->image;
    PyObject *kept = kept_list(&job->plan);
    PyObject *stopped = thread_ids(&job->stopped);
    if (!kept || !stopped) {
        Py_XDECREF(kept);
        Py_XDECREF(stopped);
        return NULL;
    }
    return Py_BuildValue(
        "{s:K,s:K,s:K,s:K,s:K,s:K,s:l,s:l,s:l,s:l,s:s,s:l,s:s,s:N,s:N,s:i,s:s}", "bytes",
        (unsigned long long)image->bytes, "huge_bytes", (unsigned long long)image->huge_bytes,
        "collapse_failed", (unsigned long long)image->collapse_failed, "inode",
        (unsigned long long)image->inode, "file_bytes", (unsigned long long)image->file_bytes, "peak",
        (unsigned long long)image->peak, "vmas_before", job->vmas_before, "pieces", job->plan.piece_count,
        "gap", job->plan.gap, "image_errno", -image->error, "image_call", image->error_call, "errno",
        -job->error, "call", job->error_call, "kept", kept, "stopped", stopped, "failed_tid",
        job->stopped.failed_tid, "failed_reason", job->stopped.failed_reason);
}

/* Maps what the freeze writes to, a VMA of its own whatever lies beside it. 0, or -1 with errno. */
static int map_scratch(struct job *job)
{
    struct scratch *scratch = mmap(NULL, sizeof *scratch, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (scratch == MAP_FAILED)
        return -1;
    madvise(scratch, sizeof *scratch, MADV_NOHUGEPAGE);
    madvise(scratch, sizeof *scratch, MADV_DONTDUMP);
    job->scratch = scratch;
    struct plan *plan = &job->plan;
    plan->keep = scratch->keep;
    plan->vmas = scratch->vmas;
    plan->pieces = scratch->pieces, plan->piece_capacity = PIECE_CAPACITY;
    plan->chunks = scratch->chunks, plan->chunk_capacity = CHUNK_CAPACITY;
    plan->drops = scratch->drops, plan->drop_capacity = DROP_CAPACITY;
    plan->entries = scratch->entries;
    plan->classes = scratch->classes;
    return 0;
}

PyDoc_STRVAR(freeze_doc,
             "freeze(*, page, block, huge, compact, gap, keep, reserve, numa, max_vmas, stop, fence)\n--\n\n"
             "Move this process's private pages into a sealed memory file mapped at the same addresses.\n"
             "Returns a dict of what was done; never raises for what the kernel refuses.");

static PyObject *py_freeze(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"page",    "block", "huge",     "compact", "gap",   "keep",
                            "reserve", "numa",  "max_vmas", "stop",    "fence", NULL};
    (void)self;
    struct job job = {0};
    unsigned long long page, block;
    int huge, compact, reserve, numa, fence;
    PyObject *keep;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KKpplOpplpp", names, &page, &block, &huge, &compact,
                                     &job.plan.gap, &keep, &reserve, &numa, &job.max_vmas, &job.stop, &fence))
        return NULL;
    struct plan *plan = &job.plan;
    plan->page = page, plan->block = block, plan->huge = huge, plan->compact = compact;
    job.image =
        (struct image){.plan = plan, .reserve = reserve, .numa = numa, .guard_chunks = fence, .memfd = -1};
    job.image.heap_end = ((uint64_t)sbrk(0) + plan->page - 1) / plan->page * plan->page;
    if (map_scratch(&job) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *result = NULL;
    if (read_ranges(&job, keep) == 0) {
        int status = job.stop ? stop_prepare() : 0;
        plan->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        if (fail(&job, "preparing to stop threads", status) == 0 &&
            fail(&job, "open of /proc/self/pagemap", plan->pagemap < 0 ? -errno : 0) == 0)
            run(&job);
        if (plan->pagemap >= 0)
            close(plan->pagemap);
        result = report(&job);
    }
    munmap(job.scratch, sizeof *job.scratch);
    return result;
}

PyDoc_STRVAR(try_stop_doc, "try_stop()\n--\n\nStop all other threads and let them go at once. Returns None, "
                           "or (tid, reason) of one\n"
                           "that cannot be stopped.");

static PyObject *py_try_stop(PyObject *self, PyObject *ignored)
{
    (void)self, (void)ignored;
    int status = stop_prepare();
    if (status < 0) {
        errno = -status;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    struct stop_result result;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int stopped = stop_threads(&result);
    if (stopped == 0)
        release_threads();
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (stopped == 0)
        Py_RETURN_NONE;
    return Py_BuildValue("(is)", result.failed_tid, result.failed_reason);
}

PyMethodDef clonal_image_methods[] = {
    {"freeze", (PyCFunction)(void (*)(void))py_freeze, METH_VARARGS | METH_KEYWORDS, freeze_doc},
    {"try_stop", py_try_stop, METH_NOARGS, try_stop_doc},
    {NULL},
};
