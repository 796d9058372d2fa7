/* NCCL over MPI, for plugins that run on the CPU: and a referee, which ends the program when ranks do not make the same calls.
 *
 * Every call of a rank sends a word to those it concerns: what it calls, of how many elements. Words between two ranks keep their order, so
 * each must be the one that the receiver's own next call expects. Messages are started by the call and finished by what waits for
 * their stream (streams.h); collectives are done at once. A call of a communicator that does not block says "in progress" first. MPI is
 * called by one thread only: a rank that never comes leaves the others waiting, as a device would. */
#include "nccl.h"

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mpi.h>
#include <vector>

#include "faults.h"
#include "streams.h"

enum Kind { SEND, REDUCE, GATHER, BROADCAST };
enum { TAG_WORD = 1, TAG_DATA, TAGS_JOIN = 1 << 13, TAGS_LIST = 2 << 13, JOIN_TAGS = 1 << 13 };

/* What travels in an ncclUniqueId. */
struct Id {
    int maker, number; /* world rank; its how manieth id */
};
struct Member {
    int rank, world, device;
};
/* A call as the others are told of it. */
struct Word {
    int32_t kind, type, op, root;
    int64_t count, number; /* number: of this kind between these ranks */
};

struct ncclComm {
    Id id;
    int ranks, rank, world;
    bool blocking, joined;
    MPI_Comm mpi;
    std::vector<Member> members;
    std::vector<MPI_Request> joining;
    std::vector<std::shared_ptr<cuemu::Transfer>> transfers; /* not known to be done */
    std::vector<int64_t> sent, received;                     /* messages to and from each rank */
    int64_t collectives;
    std::atomic<bool> aborted, busy; /* busy: the last call has still to say "in progress" */
    std::atomic<ncclResult_t> error;
    char text[256];
};

[[noreturn]] static void die(const ncclComm *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
[[noreturn]] static void die(const ncclComm *c, const char *format, ...) {
    char line[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    fprintf(stderr, "emulated NCCL: world rank %d, rank %d of %d of communicator %d.%d: %s\n", c->world, c->rank,
            c->ranks, c->id.maker, c->id.number, line);
    fflush(stderr);
    abort();
}

static void must(const ncclComm *c, int rc, const char *what) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n;
    if (rc == MPI_SUCCESS) return;
    MPI_Error_string(rc, text, &n);
    die(c, "%s: %s", what, text);
}
#define MUST(c, call) must((c), (call), #call)

static size_t bytes_of(int type) { return type == ncclInt8 ? 1 : type == ncclInt64 ? 8 : 4; }
static MPI_Datatype mpi_type(int type) {
    return type == ncclInt8    ? MPI_INT8_T
           : type == ncclInt32 ? MPI_INT32_T
           : type == ncclInt64 ? MPI_INT64_T
                               : MPI_FLOAT;
}

static const char *say(const Word *w, char *out, size_t size) {
    static const char *const kinds[] = {"send", "all-reduce", "all-gather", "broadcast"};
    const char *type = w->type == ncclInt8    ? "int8"
                       : w->type == ncclInt32 ? "int32"
                       : w->type == ncclInt64 ? "int64"
                                              : "float32";
    int n = snprintf(out, size, "%s of %lld %s", kinds[w->kind], (long long)w->count, type);
    if (w->kind == REDUCE) snprintf(out + n, size - (size_t)n, " (%s)", w->op == ncclSum ? "sum" : "max");
    if (w->kind == BROADCAST) snprintf(out + n, size - (size_t)n, " from %d", w->root);
    return out;
}

/* The word of rank `from` must be the one that this rank's own call expects. */
static void compare(const ncclComm *c, const Word *mine, const Word *theirs, int from) {
    char a[96], b[96];
    if (!memcmp(mine, theirs, sizeof *mine)) return;
    die(c, "the calls do not match: here %s%s (number %lld), on rank %d %s (number %lld)",
        mine->kind == SEND ? "the receive of a " : "", say(mine, a, sizeof a), (long long)mine->number, from,
        say(theirs, b, sizeof b), (long long)theirs->number);
}

/* --- joining: the maker of the id hears of all members, and tells them who they are ---------------------------------------------- */
static Id id_of(const ncclUniqueId &id) {
    Id out;
    memcpy(&out, id.internal, sizeof out);
    return out;
}

static void start_joining(ncclComm *c) {
    int tag = c->id.number % JOIN_TAGS;
    Member *mine = &c->members[(size_t)c->rank];
    *mine = Member{c->rank, c->world, 0};
    (void)cudaGetDevice(&mine->device);
    if (c->world != c->id.maker) {
        c->joining.resize(2);
        MUST(c, MPI_Isend(mine, sizeof *mine, MPI_BYTE, c->id.maker, TAGS_JOIN + tag, MPI_COMM_WORLD, &c->joining[0]));
        MUST(c, MPI_Irecv(c->members.data() + c->ranks, c->ranks * (int)sizeof(Member), MPI_BYTE, c->id.maker,
                          TAGS_LIST + tag, MPI_COMM_WORLD, &c->joining[1]));
        return;
    }
    c->joining.resize((size_t)c->ranks - 1);
    for (int i = 0; i + 1 < c->ranks; i++)
        MUST(c, MPI_Irecv(&c->members[(size_t)(c->ranks + i)], sizeof(Member), MPI_BYTE, MPI_ANY_SOURCE,
                          TAGS_JOIN + tag, MPI_COMM_WORLD, &c->joining[(size_t)i]));
}

/* The maker has heard of everyone: put them in order and tell them. */
static void tell_members(ncclComm *c) {
    size_t n = (size_t)c->ranks;
    for (size_t i = n; i + 1 < 2 * n; i++) {
        Member m = c->members[i];
        if (m.rank < 0 || m.rank >= c->ranks || m.rank == c->rank)
            die(c, "world rank %d joins as rank %d", m.world, m.rank);
        c->members[(size_t)m.rank] = m;
    }
    for (int r = 0; r < c->ranks; r++)
        if (r != c->rank)
            MUST(c, MPI_Send(c->members.data(), c->ranks * (int)sizeof(Member), MPI_BYTE, c->members[(size_t)r].world,
                             TAGS_LIST + c->id.number % JOIN_TAGS, MPI_COMM_WORLD));
}

static void fail(ncclComm *c, ncclResult_t r, const char *text) {
    snprintf(c->text, sizeof c->text, "%s", text);
    c->error = r;
}

static void finish_joining(ncclComm *c) {
    std::vector<int> world;
    MPI_Group everyone, members;
    if (c->world == c->id.maker)
        tell_members(c);
    else
        memcpy(c->members.data(), c->members.data() + c->ranks, (size_t)c->ranks * sizeof(Member));
    for (int r = 0; r < c->ranks; r++) {
        world.push_back(c->members[(size_t)r].world);
        for (int q = 0; q < r; q++)
            if (c->members[(size_t)q].device == c->members[(size_t)r].device)
                fail(c, ncclInvalidUsage, "Duplicate GPU detected");
    }
    MUST(c, MPI_Comm_group(MPI_COMM_WORLD, &everyone));
    MUST(c, MPI_Group_incl(everyone, c->ranks, world.data(), &members));
    MUST(c, MPI_Comm_create_group(MPI_COMM_WORLD, members, c->id.number % JOIN_TAGS, &c->mpi));
    MUST(c, MPI_Group_free(&members));
    MUST(c, MPI_Group_free(&everyone));
    c->joined = true;
}

static void go_on_joining(ncclComm *c) {
    int done = 0;
    MUST(c, MPI_Testall((int)c->joining.size(), c->joining.data(), &done, MPI_STATUSES_IGNORE));
    if (done) finish_joining(c);
}

/* --- messages -------------------------------------------------------------------------------------------------------------------- */
struct Message : cuemu::Transfer {
    ncclComm *c;
    int peer;
    Word mine, word; /* as this rank has it, as the sender has it */
    MPI_Request request[2];

    void finish() override {
        MPI_Status s;
        MUST(c, MPI_Wait(&request[0], MPI_STATUS_IGNORE));
        if (!send) compare(c, &mine, &word, peer);
        MUST(c, MPI_Wait(&request[1], &s));
    }
};

static void start_message(const std::shared_ptr<Message> &m, void *x, cudaStream_t stream) {
    ncclComm *c = m->c;
    int bytes = (int)(m->mine.count * (int64_t)bytes_of(m->mine.type));
    cuemu::trace(m->send ? "send" : "receive", "message", (size_t)bytes);
    if (m->send) {
        MUST(c, MPI_Isend(&m->word, sizeof m->word, MPI_BYTE, m->peer, TAG_WORD, c->mpi, &m->request[0]));
        MUST(c, MPI_Isend(x, bytes, MPI_BYTE, m->peer, TAG_DATA, c->mpi, &m->request[1]));
    } else {
        MUST(c, MPI_Irecv(&m->word, sizeof m->word, MPI_BYTE, m->peer, TAG_WORD, c->mpi, &m->request[0]));
        MUST(c, MPI_Irecv(x, bytes, MPI_BYTE, m->peer, TAG_DATA, c->mpi, &m->request[1]));
    }
    cuemu::stream_defer(stream, m);
    size_t kept = 0;
    for (auto &t : c->transfers)
        if (!t->done) c->transfers[kept++] = t;
    c->transfers.resize(kept);
    c->transfers.push_back(m);
}

static std::shared_ptr<Message> make_message(ncclComm *c, size_t count, int type, int peer, bool send) {
    auto m = std::make_shared<Message>();
    if (peer < 0 || peer >= c->ranks || peer == c->rank) die(c, "a message to or from rank %d", peer);
    if (count > INT_MAX / 8) die(c, "a message of %zu elements", count);
    m->comm = m->c = c;
    m->send = send;
    m->peer = peer;
    m->mine = m->word = Word{SEND, type, 0, 0, (int64_t)count, (send ? c->sent : c->received)[(size_t)peer]++};
    return m;
}

/* What waits for the end of its group. */
struct Pending {
    std::shared_ptr<Message> message;
    void *x;
    cudaStream_t stream;
};
static int depth;
static std::vector<Pending> pending;

static ncclResult_t done(ncclComm *c) {
    c->busy = !c->blocking;
    return c->blocking ? ncclSuccess : ncclInProgress;
}

static ncclResult_t message(void *x, size_t count, int type, int peer, ncclComm *c, cudaStream_t stream, bool send) {
    if (!c->joined || c->aborted || c->error != ncclSuccess) return ncclInvalidUsage;
    auto m = make_message(c, count, type, peer, send);
    if (depth > 0) {
        pending.push_back(Pending{m, x, stream});
        return ncclSuccess;
    }
    cuemu::stream_ready(stream, m.get());
    start_message(m, x, stream);
    return done(c);
}

/* --- collectives ------------------------------------------------------------------------------------------------------------------ */
static ncclResult_t meet(ncclComm *c, Word w, cudaStream_t stream) {
    std::vector<MPI_Request> out;
    if (!c->joined || c->aborted || c->error != ncclSuccess) return ncclInvalidUsage;
    if (depth > 0) die(c, "a collective in a group of messages");
    if (w.count < 0 || w.count > INT_MAX / 8) die(c, "a collective of %lld elements", (long long)w.count);
    cuemu::stream_ready(stream);
    cuemu::trace("collective",
                 w.kind == REDUCE   ? "reduce"
                 : w.kind == GATHER ? "gather"
                                    : "broadcast",
                 (size_t)w.count * bytes_of(w.type));
    w.number = c->collectives++;
    for (int r = 0; r < c->ranks; r++) {
        if (r == c->rank) continue;
        out.emplace_back();
        MUST(c, MPI_Isend(&w, sizeof w, MPI_BYTE, r, TAG_WORD, c->mpi, &out.back()));
    }
    for (int r = 0; r < c->ranks; r++) {
        Word theirs;
        if (r == c->rank) continue;
        MUST(c, MPI_Recv(&theirs, sizeof theirs, MPI_BYTE, r, TAG_WORD, c->mpi, MPI_STATUS_IGNORE));
        compare(c, &w, &theirs, r);
    }
    MUST(c, MPI_Waitall((int)out.size(), out.data(), MPI_STATUSES_IGNORE));
    return ncclSuccess;
}

extern "C" {
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static int made;
    Id mine = {0, ++made};
    int started = 0;
    MPI_Initialized(&started);
    if (!started) return ncclSystemError;
    MPI_Comm_rank(MPI_COMM_WORLD, &mine.maker);
    memset(id, 0, sizeof *id);
    memcpy(id->internal, &mine, sizeof mine);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
    *comm = nullptr;
    if (ranks < 1 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
    ncclComm *c = new ncclComm();
    c->id = id_of(id);
    c->ranks = ranks;
    c->rank = rank;
    c->blocking = config->blocking != 0;
    c->mpi = MPI_COMM_NULL;
    c->members.resize(2 * (size_t)ranks);
    c->sent.resize((size_t)ranks);
    c->received.resize((size_t)ranks);
    c->error = ncclSuccess;
    MPI_Comm_rank(MPI_COMM_WORLD, &c->world);
    start_joining(c);
    *comm = c;
    if (!c->blocking) return ncclInProgress;
    while (!c->joined) go_on_joining(c);
    return c->error;
}

ncclResult_t ncclCommFinalize(ncclComm_t c) {
    for (auto &t : c->transfers)
        if (!t->done) {
            t->finish();
            t->done = true;
        }
    return done(c);
}
ncclResult_t ncclCommDestroy(ncclComm_t c) {
    if (c->mpi != MPI_COMM_NULL) MPI_Comm_free(&c->mpi);
    delete c;
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) { /* its transfers may still be MPI's: it stays */
    c->aborted = true;
    return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *error) {
    *error = ncclInProgress;
    if (!c->joined && !c->aborted) {
        go_on_joining(c);
    } else if (!c->busy.exchange(false)) {
        *error = c->error;
    }
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t r) {
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "in progress"};
    return texts[r];
}
const char *ncclGetLastError(ncclComm_t c) { return c ? c->text : ""; }

ncclResult_t ncclGroupStart(void) {
    depth++;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
    if (depth == 0) return ncclInvalidUsage;
    if (--depth > 0) return ncclSuccess;
    std::vector<Pending> list;
    list.swap(pending);
    ncclResult_t r = ncclSuccess;
    for (auto &p : list) cuemu::stream_ready(p.stream);
    for (auto &p : list) start_message(p.message, p.x, p.stream);
    for (auto &p : list) r = done(p.message->c);
    return r;
}

ncclResult_t ncclSend(const void *x, size_t count, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t stream) {
    return message((void *)(uintptr_t)x, count, type, peer, c, stream, true);
}
ncclResult_t ncclRecv(void *x, size_t count, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t stream) {
    return message(x, count, type, peer, c, stream, false);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t c,
                           cudaStream_t stream) {
    ncclResult_t r = meet(c, Word{REDUCE, type, op, 0, (int64_t)count, 0}, stream);
    if (r != ncclSuccess) return r;
    MUST(c, MPI_Allreduce(from == to ? MPI_IN_PLACE : from, to, (int)count, mpi_type(type),
                          op == ncclSum ? MPI_SUM : MPI_MAX, c->mpi));
    return done(c);
}
ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t c,
                           cudaStream_t stream) {
    ncclResult_t r = meet(c, Word{GATHER, type, 0, 0, (int64_t)count, 0}, stream);
    if (r != ncclSuccess) return r;
    bool in_place = from == (const char *)to + (size_t)c->rank * count * bytes_of(type);
    MUST(c, MPI_Allgather(in_place ? MPI_IN_PLACE : from, (int)count, mpi_type(type), to, (int)count, mpi_type(type),
                          c->mpi));
    return done(c);
}
ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t c,
                           cudaStream_t stream) {
    ncclResult_t r = meet(c, Word{BROADCAST, type, 0, root, (int64_t)count, 0}, stream);
    if (r != ncclSuccess) return r;
    if (c->rank == root && from != to) memmove(to, from, count * bytes_of(type));
    MUST(c, MPI_Bcast(to, (int)count, mpi_type(type), root, c->mpi));
    return done(c);
}
}
