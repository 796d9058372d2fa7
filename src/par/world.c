/* The world: start and end of MPI, what this rank is and which ranks share its host. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "par/room.h"

static struct {
    struct par_group *group;
    int rank, size, host, local_rank, local_size;
} world_ = {.size = 1, .local_size = 1};

struct par_group *group_world(void) {
    return world_.group;
}
int par_rank(void) { return world_.rank; }
int par_size(void) { return world_.size; }
int par_local_size(void) { return world_.local_size; }
int par_local_rank(void) { return world_.local_rank; }
int par_host(void) { return world_.host; }

static int env_int(const char *name) {
    const char *text = getenv(name);
    return text ? atoi(text) : 0;
}

/* How many tasks srun started of which this process believes to be the only one; 0 when all is well. Inside a job step only, and not below
 * mpirun, whose daemons may run in a step of their own: there a world of one is what was asked for. */
static int srun_tasks(bool below_mpirun) {
    if (below_mpirun || !getenv("SLURM_STEP_ID")) return 0;
    const char *step = getenv("SLURM_STEP_NUM_TASKS");
    return step ? atoi(step) : env_int("SLURM_NTASKS");
}

static enum status find_local(struct par_group *w) {
    MPI_Comm local;
    world_.host = w->rank;
    TRY_MPI(w, MPI_Comm_split_type(w->comm, MPI_COMM_TYPE_SHARED, w->rank, MPI_INFO_NULL, &local));
    TRY_MPI(w, MPI_Comm_rank(local, &world_.local_rank));
    TRY_MPI(w, MPI_Comm_size(local, &world_.local_size));
    TRY_MPI(w, MPI_Bcast(&world_.host, 1, MPI_INT, 0, local));
    TRY_MPI(w, MPI_Comm_free(&local));
    return TM_OK;
}

static enum status start_world(int provided, int tasks) {
    struct par_group early = {.name = "world", .size = 1};
    MPI_Comm comm;
    TRY_MPI(&early, MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    TRY_MPI(&early, MPI_Comm_rank(MPI_COMM_WORLD, &world_.rank));
    TRY_MPI(&early, MPI_Comm_size(MPI_COMM_WORLD, &world_.size));
    log_set_rank(world_.rank);
    fault_set_rank(world_.rank);
    if (world_.size == 1 && tasks > 1)
        return TM_FAIL(TM_ERR_DECK,
                       "srun started %d tasks, but MPI sees each as a world of one rank: expected a world of %d (use "
                       "`srun --mpi=pmix`, see `srun --mpi=list`; or mpirun)",
                       tasks, tasks);
    if (provided < MPI_THREAD_FUNNELED)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "MPI gives thread level %d: expected MPI_THREAD_FUNNELED (%d)", provided,
                       (int)MPI_THREAD_FUNNELED);
    TRY_MPI(&early, MPI_Comm_dup(MPI_COMM_WORLD, &comm));
    TM_TRY(group_create(comm, "world", &world_.group));
    TM_TRY(find_local(world_.group));
    return channel_exchange(world_.group, world_.host);
}

/* More ranks than cores: a rank that waits must let the others run, or a step takes 20 times as long. Open MPI finds this out by itself
 * only when it counts the slots; the environment decides when it has a say. */
static void yield_when_crowded(void) {
    const char *local = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    if (local && atol(local) > sysconf(_SC_NPROCESSORS_ONLN)) setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
}

enum status par_start(int *argc, char ***argv) {
    int provided = MPI_THREAD_SINGLE;
    /* Read before MPI_Init, which may set variables of its own. */
    int tasks = srun_tasks(getenv("OMPI_COMM_WORLD_SIZE") != NULL);
    if (tasks > 1 && env_int("SLURM_PROCID") == 0 && !getenv("PMIX_RANK") && !getenv("PMI_RANK"))
        log_warn("srun started %d tasks without PMIx: if MPI does not start now, use `srun --mpi=pmix` or mpirun",
                 tasks);
    yield_when_crowded();
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return TM_FAIL(TM_ERR_COMM, "MPI_Init_thread failed");
    enum status st = start_world(provided, tasks);
    if (st == TM_OK) return TM_OK;
    if (world_.size > 1) par_abort(st); /* alone in MPI_Finalize would hang the others */
    par_finish();
    return st;
}

void par_finish(void) {
    int started = 0, finished = 0;
    MPI_Initialized(&started);
    MPI_Finalized(&finished);
    if (started && !finished) {
        /* The watchdog stays on: MPI_Finalize waits for all ranks. */
        watch_enter(KIND_finish, world_.group, -1);
        group_destroy(&world_.group);
        MPI_Finalize();
        watch_leave();
    }
    par_watchdog_stop();
    channel_close();
    world_.rank = world_.host = world_.local_rank = 0;
    world_.size = world_.local_size = 1;
}

_Noreturn void par_abort(enum status st) {
    int started = 0, finished = 0;
    int code = st == TM_OK ? TM_ERR_INTERNAL : (int)st; /* mpirun returns code & 255: 0 would look like success */
    if (st != TM_OK && *status_message()) log_error("%s", status_message());
    MPI_Initialized(&started);
    MPI_Finalized(&finished);
    if (started && !finished) MPI_Abort(MPI_COMM_WORLD, code);
    _exit(code);
}
