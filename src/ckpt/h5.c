/* HDF5 in a few calls that return a status: making the shard files and the index. */
#include "ckpt/h5.h"

#include <hdf5.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "data goes to disk as it lies in memory");

/* --- errors: the library prints nothing; the innermost message of its first failure goes into ours -------------------------------- */

static _Thread_local char reason_[256];

static herr_t innermost(unsigned depth, const H5E_error2_t *e, void *unused) {
    (void)unused;
    if (depth == 0)
        snprintf(reason_, sizeof reason_, "%s: %s", e->func_name ? e->func_name : "?", e->desc ? e->desc : "?");
    for (char *p = reason_; *p; p++)
        if (*p == '\n') *p = ' '; /* of a date in it */
    return 0;
}

/* Called by the library when a call of ours fails; the next call would clear its stack. */
static herr_t record(hid_t stack, void *unused) {
    (void)unused;
    return reason_[0] ? 0 : H5Ewalk2(stack, H5E_WALK_UPWARD, innermost, NULL);
}

static enum status h5_fail(const char *what, const char *path) {
    return TM_FAIL(TM_ERR_IO, "cannot %s %s: HDF5: %s", what, path, reason_[0] ? reason_ : "no reason given");
}

/* --- types ----------------------------------------------------------------------------------------------------------------- */

/* A float of `bytes` with sign, exponent and mantissa from the top down: what H5T lacks. */
static hid_t small_float(size_t bytes, size_t exponent, size_t mantissa, size_t bias) {
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    /* fields before size: HDF5 refuses a size that its present fields do not fit */
    if (t >= 0 && H5Tset_fields(t, exponent + mantissa, mantissa, exponent, 0, mantissa) >= 0 &&
        H5Tset_size(t, bytes) >= 0 && H5Tset_precision(t, 8 * bytes) >= 0 && H5Tset_ebias(t, bias) >= 0)
        return t;
    H5Tclose(t);
    return -1;
}

/* A new type handle of an element type. */
static hid_t type_of(enum dtype t) {
    switch (t) {
    case DTYPE_f64: return H5Tcopy(H5T_IEEE_F64LE);
    case DTYPE_f32: return H5Tcopy(H5T_IEEE_F32LE);
    case DTYPE_f16: return small_float(2, 5, 10, 15);
    case DTYPE_bf16: return small_float(2, 8, 7, 127);
    case DTYPE_e5m2: return small_float(1, 5, 2, 15);
    case DTYPE_i64: return H5Tcopy(H5T_STD_I64LE);
    case DTYPE_i32: return H5Tcopy(H5T_STD_I32LE);
    case DTYPE_i16: return H5Tcopy(H5T_STD_I16LE);
    case DTYPE_i8: return H5Tcopy(H5T_STD_I8LE);
    case DTYPE_u64: return H5Tcopy(H5T_STD_U64LE);
    case DTYPE_u32: return H5Tcopy(H5T_STD_U32LE);
    case DTYPE_u16: return H5Tcopy(H5T_STD_U16LE);
    case DTYPE_e4m3: /* its largest exponent is finite, which HDF5 cannot say: codes */
    case DTYPE_u8:
    case DTYPE_bool: return H5Tcopy(H5T_STD_U8LE);
    case DTYPE_COUNT: break;
    }
    return -1;
}

static hid_t space_of(int rank, const int64_t *shape) {
    hsize_t n[TENSOR_MAX_RANK];
    for (int i = 0; i < rank; i++) n[i] = (hsize_t)shape[i];
    return rank ? H5Screate_simple(rank, n, NULL) : H5Screate(H5S_SCALAR);
}

static void extent(const struct tensor_box *b, int64_t *shape) {
    for (int i = 0; i < b->rank; i++) shape[i] = b->hi[i] - b->lo[i];
}

/* --- attributes ------------------------------------------------------------------------------------------------------------ */

static bool put_attribute(hid_t obj, const char *key, hid_t file_type, hid_t mem_type, hid_t space, const void *value) {
    hid_t a = H5Acreate2(obj, key, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool done = a >= 0 && (!value || H5Awrite(a, mem_type, value) >= 0);
    if (a >= 0) H5Aclose(a);
    return done;
}

static bool put_text(hid_t obj, const char *key, const char *text) {
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_cset(type, H5T_CSET_UTF8);
    bool done = type >= 0 && space >= 0 && H5Tset_size(type, strlen(text) + 1) >= 0 &&
                put_attribute(obj, key, type, type, space, text);
    H5Sclose(space);
    H5Tclose(type);
    return done;
}

static bool put_numbers(hid_t obj, const char *key, const int64_t *x, int n) {
    hsize_t size = (hsize_t)n;
    hid_t space = n ? H5Screate_simple(1, &size, NULL) : H5Screate(H5S_NULL);
    bool done = space >= 0 && put_attribute(obj, key, H5T_STD_I64LE, H5T_NATIVE_INT64, space, n ? x : NULL);
    H5Sclose(space);
    return done;
}

static bool describe(hid_t set, const struct ckpt_entry *e, const struct tensor_box *box) {
    const struct tensor_desc *d = &e->desc;
    return put_text(set, "name", d->name) && put_numbers(set, "shape", d->shape, d->rank) &&
           put_numbers(set, "lo", box->lo, d->rank) && put_numbers(set, "hi", box->hi, d->rank) &&
           put_text(set, "dtype", dtype_name(d->dtype)) && put_text(set, "units", e->units);
}

/* --- files ----------------------------------------------------------------------------------------------------------------- */

static hid_t create_file(const char *path) {
    reason_[0] = 0;
    H5dont_atexit(); /* at the process's end it would crash on a file whose close has failed; the first call counts */
    H5Eset_auto2(H5E_DEFAULT, record, NULL);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0) return -1;
    H5Pset_alignment(access, 1 << 16, 4096);
#if H5_VERSION_GE(1, 14, 0) || (H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 12, 0))
    H5Pset_file_locking(access, 0, 1); /* some parallel file systems refuse flock; the run has a lock of its own */
#endif
    hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    H5Pclose(access);
    return f;
}

/* Create a dataset with its attributes; groups of the name are made. *offset (may be NULL) gets its place in the file. */
static bool create_dataset(hid_t f, const char *name, const struct ckpt_entry *e, const struct tensor_box *box,
                           hid_t layout, int64_t *offset) {
    int64_t shape[TENSOR_MAX_RANK];
    extent(box, shape);
    hid_t type = type_of(e->desc.dtype), space = space_of(box->rank, shape), link = H5Pcreate(H5P_LINK_CREATE),
          set = -1;
    /* no times in the file: the same data give the same bytes */
    if (type >= 0 && space >= 0 && link >= 0 && H5Pset_obj_track_times(layout, 0) >= 0 &&
        H5Pset_create_intermediate_group(link, 1) >= 0)
        set = H5Dcreate2(f, name, type, space, link, layout, H5P_DEFAULT);
    bool done = set >= 0 && describe(set, e, box);
    if (done && offset) {
        haddr_t at = H5Dget_offset(set);
        done = at != HADDR_UNDEF;
        *offset = (int64_t)at;
    }
    if (set >= 0) H5Dclose(set);
    if (link >= 0) H5Pclose(link);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return done;
}

static void piece_name(char *out, size_t cap, const struct ckpt_entry *e, int64_t piece) {
    snprintf(out, cap, "/%s#%lld", e->desc.name, (long long)(piece - e->piece));
}

enum status ckpt_h5_create_shard(const char *path, struct ckpt_table *t, int file) {
    char name[TENSOR_NAME_MAX + 32];
    hid_t f = create_file(path), layout = H5Pcreate(H5P_DATASET_CREATE);
    enum status st = f >= 0 && layout >= 0 ? TM_OK : h5_fail("create", path);
    if (st == TM_OK &&
        (H5Pset_layout(layout, H5D_CONTIGUOUS) < 0 || H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY) < 0 ||
         H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER) < 0))
        st = h5_fail("set up", path);
    for (int64_t i = 0; st == TM_OK && i < t->n_pieces; i++) {
        struct ckpt_piece *p = &t->pieces[i];
        const struct ckpt_entry *e = &t->tensors[p->tensor];
        if (p->file != file) continue;
        piece_name(name, sizeof name, e, i);
        if (!create_dataset(f, name, e, &p->box, layout, &p->offset)) {
            st = status_context(h5_fail("add a dataset to", path), "%s: ", name);
        }
    }
    if (layout >= 0) H5Pclose(layout);
    if (f >= 0 && H5Fclose(f) < 0 && st == TM_OK) st = h5_fail("close", path);
    return st;
}

/* Map the pieces of a tensor into a layout. */
static bool map_pieces(hid_t layout, const struct ckpt_table *t, const struct ckpt_entry *e) {
    char name[TENSOR_NAME_MAX + 32];
    hid_t whole = space_of(e->desc.rank, e->desc.shape);
    bool done = whole >= 0;
    for (int64_t i = e->piece; done && i < e->piece + e->pieces; i++) {
        const struct ckpt_piece *p = &t->pieces[i];
        hsize_t lo[TENSOR_MAX_RANK], count[TENSOR_MAX_RANK];
        int64_t shape[TENSOR_MAX_RANK];
        extent(&p->box, shape);
        for (int k = 0; k < p->box.rank; k++) {
            lo[k] = (hsize_t)p->box.lo[k];
            count[k] = (hsize_t)shape[k];
        }
        hid_t source = space_of(p->box.rank, shape);
        piece_name(name, sizeof name, e, i);
        done = source >= 0 &&
               (p->box.rank == 0 || H5Sselect_hyperslab(whole, H5S_SELECT_SET, lo, NULL, count, NULL) >= 0) &&
               H5Pset_virtual(layout, whole, t->files[p->file].name, name, source) >= 0;
        if (source >= 0) H5Sclose(source);
    }
    if (whole >= 0) H5Sclose(whole);
    return done;
}

enum status ckpt_h5_create_index(const char *path, const struct ckpt_table *t) {
    hid_t f = create_file(path);
    enum status st = f >= 0 ? TM_OK : h5_fail("create", path);
    for (int i = 0; st == TM_OK && i < t->n; i++) {
        const struct ckpt_entry *e = &t->tensors[i];
        hid_t layout = H5Pcreate(H5P_DATASET_CREATE);
        if (layout < 0 || !map_pieces(layout, t, e) ||
            !create_dataset(f, e->desc.name, e, &e->desc.box, layout, NULL)) {
            st = status_context(h5_fail("add a dataset to", path), "%s: ", e->desc.name);
        }
        if (layout >= 0) H5Pclose(layout);
    }
    if (f >= 0 && H5Fclose(f) < 0 && st == TM_OK) st = h5_fail("close", path);
    return st;
}
