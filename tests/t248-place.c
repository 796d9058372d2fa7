/* TEST ranks=1 tier=1 */
/* TEST ranks=1 backends=cuda tier=1 */
/* dev/: where a GPU sits, in a made-up sysfs; and host access to parts of one block of device memory, several at once. */
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "dev/dev.h"
#include "dev/place.h"
#include "tap.h"

static char root[64];

static void make(const char *path, const char *text) {
    char at[256];
    snprintf(at, sizeof at, "%s/%s", root, path);
    if (!text) {
        must(file_make_dirs(at));
    } else {
        FILE *f = fopen(at, "w");
        if (f) fputs(text, f), fclose(f);
    }
}
static void link_to(const char *path, const char *target) {
    char at[256], to[256];
    snprintf(at, sizeof at, "%s/%s", root, path);
    snprintf(to, sizeof to, "%s/%s", root, target);
    ok(symlink(to, at) == 0, "%s is a link", path);
}

/* Two GPUs and two adapters below bridges of their own, and a third adapter at the other socket. */
static void places(void) {
    static const char *const near = "devices/pci0000:16/0000:16:01.0", *const far = "devices/pci0000:97/0000:97:01.0";
    struct dev_place p;
    char path[128];
    for (int i = 0; i < 2; i++) {
        const char *bus = i ? far : near;
        snprintf(path, sizeof path, "%s/0000:%s:00.0", bus, i ? "99" : "17");
        make(path, NULL);
        snprintf(path, sizeof path, "%s/0000:%s:00.0", bus, i ? "9a" : "18");
        make(path, NULL);
    }
    make("devices/pci0000:97/0000:98:01.0/0000:9f:00.0", NULL);
    make("devices/pci0000:16/0000:16:01.0/0000:17:00.0/numa_node", "0\n");
    make("devices/pci0000:16/0000:16:01.0/0000:17:00.0/local_cpulist", "0-15,64-79\n");
    make("devices/pci0000:97/0000:97:01.0/0000:99:00.0/numa_node", "1\n");
    make("bus/pci/devices", NULL);
    make("class/infiniband/mlx5_0", NULL);
    make("class/infiniband/mlx5_1", NULL);
    make("class/infiniband/mlx5_2", NULL);
    link_to("bus/pci/devices/0000:17:00.0", "devices/pci0000:16/0000:16:01.0/0000:17:00.0");
    link_to("bus/pci/devices/0000:99:00.0", "devices/pci0000:97/0000:97:01.0/0000:99:00.0");
    link_to("class/infiniband/mlx5_0/device", "devices/pci0000:97/0000:98:01.0/0000:9f:00.0");
    link_to("class/infiniband/mlx5_1/device", "devices/pci0000:97/0000:97:01.0/0000:9a:00.0");
    link_to("class/infiniband/mlx5_2/device", "devices/pci0000:16/0000:16:01.0/0000:18:00.0");
    dev_place(root, "0000:17:00.0", &p);
    is_int(p.numa, 0, "NUMA node");
    is_str(p.cores, "0-15,64-79", "cores");
    is_str(p.nic, "mlx5_2", "the adapter below the same bridge");
    dev_place(root, "0000:99:00.0", &p);
    is_int(p.numa, 1, "the other socket");
    is_str(p.cores, "", "no list of cores");
    is_str(p.nic, "mlx5_1", "its adapter: the bridge decides, not the name");
    dev_place(root, "0000:01:00.0", &p);
    ok(p.numa == -1 && !*p.nic && !*p.cores, "a device that is not listed");
    dev_place("/nowhere", "", &p);
    ok(p.numa == -1 && !*p.nic, "no sysfs");
}

/* Three maps of one block at once, two of them of neighbours: what is written through one comes back, nothing beside it changes. */
static void maps(void) {
    enum { N = 1 << 20 };
    struct dev *d;
    dptr x;
    static int32_t all[N];
    int32_t *part[3];
    const int at[3] = {0, 1000, 700000}, n[3] = {1000, 24, 300000};
    const char *backend = getenv("TEMPER_TEST_BACKEND");
    must(dev_open(&(struct dev_options){.backend = dev_backend_named(backend), .threads = 1, .invariant = true}, &d));
    must(dev_alloc(d, "test", sizeof all, &x));
    for (int i = 0; i < N; i++) all[i] = i;
    must(dev_upload(d, x, all, sizeof all));
    bool right = true;
    for (int round = 0; round < 2; round++) {
        for (int k = 0; k < 3; k++) must(dev_map(d, dptr_add(x, 4 * at[k]), (size_t)n[k] * 4, (void **)&part[k]));
        for (int k = 0; k < 3; k++)
            for (int i = 0; i < n[k]; i++) {
                right &= part[k][i] == (round + 1) * (at[k] + i);
                part[k][i] += at[k] + i;
            }
        for (int k = 2; k >= 0; k--) must(dev_unmap(d, dptr_add(x, 4 * at[k]), (size_t)n[k] * 4, part[k]));
    }
    must(dev_download(d, all, x, sizeof all));
    for (int i = 0; i < N; i++) {
        bool mapped = i < 1024 || (i >= 700000 && i < 1000000);
        right &= all[i] == (mapped ? 3 * i : i);
    }
    ok(right, "three maps of one block at once");
    is_status(dev_unmap(d, x, 4, part[0]), TM_ERR_INTERNAL);
    dev_close(&d);
}

int main(void) {
    snprintf(root, sizeof root, "/tmp/temper-place-XXXXXX");
    if (!mkdtemp(root)) return 1;
    places();
    maps();
    must(file_remove_tree(root));
    return tap_done();
}
