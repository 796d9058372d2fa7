/* TEST ranks=1 backends=host,guard tier=1 */
/* dev/: the table of memory by class: what is there, the most there was, resetting; the same on a backend without memory. */
#include "dev/dev.h"
#include "tap.h"

static struct dev_memory row(const struct dev *d, const char *what) {
    for (int i = 0; i < dev_memory_count(d); i++)
        if (!strcmp(dev_memory(d, i).what, what)) return dev_memory(d, i);
    return (struct dev_memory){.what = "none", .now = SIZE_MAX, .high = SIZE_MAX};
}

static void is_row(const struct dev *d, const char *what, size_t now, size_t high) {
    struct dev_memory m = row(d, what);
    ok(m.now == now && m.high == high, "%s: now %zu, high %zu (got %zu, %zu)", what, now, high, m.now, m.high);
}

static void walk(struct dev *d) {
    dptr a, b, c, none;
    is_int(dev_memory_count(d), 0, "no memory, no rows");
    is_int(dev_memory(d, 0).high, 0, "a row that is not there is zero");
    must(dev_alloc(d, "weights", 1000, &a));
    must(dev_alloc(d, "scratch", 300, &b));
    must(dev_alloc(d, "weights", 24, &c));
    is_str(dev_memory(d, 0).what, "all", "row 0 is the sum");
    is_str(dev_memory(d, 1).what, "weights", "then the classes as they came");
    is_int(dev_memory_count(d), 3, "the sum and two classes");
    is_row(d, "weights", 1024, 1024);
    is_row(d, "all", 1324, 1324);
    dev_free(d, &a);
    must(dev_alloc(d, "scratch", 500, &a));
    is_row(d, "weights", 24, 1024);
    is_row(d, "scratch", 800, 800);
    is_row(d, "all", 824, 1324); /* less than the sum of the classes' highs: they were not there together */
    is_int(dev_bytes(d, "scratch"), 800, "dev_bytes of a class");
    is_int(dev_bytes(d, NULL), 824, "dev_bytes of all");
    is_int(dev_bytes(d, "unknown"), 0, "dev_bytes of no class");
    must(dev_alloc(d, "weights", 1100, &none));
    is_row(d, "weights", 1124, 1124);
    is_row(d, "all", 1924, 1924);
    dev_free(d, &none);
    dev_free(d, &c);
    dev_memory_reset(d);
    is_int(dev_memory_count(d), 2, "reset forgets classes without memory");
    is_row(d, "scratch", 800, 800);
    is_row(d, "all", 800, 800);
    must(dev_alloc(d, "empty", 0, &none));
    is_row(d, "empty", 0, 0);
    dev_free(d, &a);
    dev_free(d, &b);
    dev_free(d, &none);
    is_row(d, "all", 0, 800);
}

int main(void) {
    const char *name = getenv("TEMPER_TEST_BACKEND");
    const enum dev_backend backends[] = {dev_backend_named(name), DEV_PLAN};
    for (int i = 0; i < 2; i++) {
        struct dev *d;
        must(dev_open(&(struct dev_options){.backend = backends[i], .threads = 1}, &d));
        walk(d);
        dev_close(&d);
    }
    return tap_done();
}
