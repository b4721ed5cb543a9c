/* onednn: batch normalization of oneDNN 2.x, with everything but the execution done beforehand. */

#include <stdlib.h>

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#if DNNL_VERSION_MAJOR != 2
#error "onednn.c is written for oneDNN 2.x, as in Debian 12"
#endif

enum { FORWARD, BACKWARD, INFERENCE };
enum { PLAIN, CHANNELS_LAST, BLOCKED };
enum { MAX_ARGS = 9 };

#define TRY(call)                    \
    do {                             \
        if ((call) != dnnl_success)  \
            return NULL;             \
    } while (0)

/* What lives as long as the process. */
static dnnl_engine_t engine;
static dnnl_stream_t stream;

typedef struct {
    dnnl_primitive_t primitive;
    dnnl_exec_arg_t args[MAX_ARGS];
    int count;
    const char *implementation;
} norm;

/* Tags by layout, for rank 4 and 5. Lower ranks come with axes of length 1: oneDNN has only plain loops for them. */
static const dnnl_format_tag_t TAGS[3][2] = {
    {dnnl_nchw, dnnl_ncdhw},
    {dnnl_nhwc, dnnl_ndhwc},
    {dnnl_nChw16c, dnnl_nCdhw16c},
};

int onednn_init(int threads)
{
    omp_set_num_threads(threads); /* oneDNN takes all threads that OpenMP would */
    if (engine)
        return 0;
    return dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success
        || dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) != dnnl_success;
}

void onednn_version(int *major, int *minor, int *patch)
{
    const dnnl_version_t *version = dnnl_version();
    *major = version->major;
    *minor = version->minor;
    *patch = version->patch;
}

static dnnl_status_t describe(dnnl_memory_desc_t *desc, int layout, int rank, const int64_t *dims)
{
    return dnnl_memory_desc_init_by_tag(desc, rank, dims, dnnl_f32, TAGS[layout][rank - 4]);
}

/* Bytes of an array in a layout, with its padding; 0 if oneDNN does not take the shape. */
size_t onednn_bytes(int layout, int rank, const int64_t *dims)
{
    dnnl_memory_desc_t desc;
    return describe(&desc, layout, rank, dims) == dnnl_success ? dnnl_memory_desc_get_size(&desc) : 0;
}

static void *bind(norm *n, int arg, const dnnl_memory_desc_t *desc, void *data)
{
    dnnl_memory_t memory;
    TRY(dnnl_memory_create(&memory, desc, engine, data));
    n->args[n->count].arg = arg;
    n->args[n->count++].memory = memory;
    return memory;
}

/* Copies `from` to `to`, from one layout to the other; 0 on success. */
int onednn_reorder(float *to, int to_layout, float *from, int from_layout, int rank, const int64_t *dims)
{
    dnnl_memory_desc_t to_desc, from_desc;
    dnnl_primitive_desc_t desc;
    norm n = {0};
    if (describe(&to_desc, to_layout, rank, dims) || describe(&from_desc, from_layout, rank, dims)
        || dnnl_reorder_primitive_desc_create(&desc, &from_desc, engine, &to_desc, engine, NULL))
        return 1;
    int failed = dnnl_primitive_create(&n.primitive, desc) || !bind(&n, DNNL_ARG_FROM, &from_desc, from)
        || !bind(&n, DNNL_ARG_TO, &to_desc, to)
        || dnnl_primitive_execute(n.primitive, stream, n.count, n.args) || dnnl_stream_wait(stream);
    for (int i = 0; i < n.count; i++)
        dnnl_memory_destroy(n.args[i].memory);
    if (n.primitive)
        dnnl_primitive_destroy(n.primitive);
    dnnl_primitive_desc_destroy(desc);
    return failed;
}

static dnnl_primitive_desc_t choose(int operation, float eps, const dnnl_memory_desc_t *data)
{
    const unsigned affine = dnnl_use_scale | dnnl_use_shift;
    dnnl_batch_normalization_desc_t desc;
    dnnl_primitive_desc_t chosen, forward;
    TRY(dnnl_batch_normalization_forward_desc_init(
        &desc, operation == INFERENCE ? dnnl_forward_inference : dnnl_forward_training, data, eps,
        operation == INFERENCE ? affine | dnnl_use_global_stats : affine));
    TRY(dnnl_primitive_desc_create(&chosen, &desc, NULL, engine, NULL));
    if (operation != BACKWARD)
        return chosen;
    forward = chosen;
    TRY(dnnl_batch_normalization_backward_desc_init(&desc, dnnl_backward, data, data, eps, affine));
    dnnl_status_t status = dnnl_primitive_desc_create(&chosen, &desc, NULL, engine, forward);
    dnnl_primitive_desc_destroy(forward);
    return status == dnnl_success ? chosen : NULL;
}

/* The operation on these arrays, ready to run; NULL if oneDNN has none. `parameters` are scale, shift, mean, var,
 * dscale and dshift one after another. Forward writes mean and var, the others read them. */
norm *onednn_create(int operation, int layout, int rank, const int64_t *dims, float eps, float *out, float *x,
                    float *dy, float *parameters)
{
    const dnnl_dims_t channels = {dims[1]};
    dnnl_memory_desc_t data, vector;
    TRY(describe(&data, layout, rank, dims));
    TRY(dnnl_memory_desc_init_by_tag(&vector, 1, channels, dnnl_f32, dnnl_a));
    dnnl_primitive_desc_t desc = choose(operation, eps, &data);
    norm *n = desc ? calloc(1, sizeof(norm)) : NULL;
    if (!n)
        return NULL;
    TRY(dnnl_primitive_create(&n->primitive, desc));
    TRY(dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &n->implementation));
    const int backward = operation == BACKWARD;
    const int vectors[6] = {DNNL_ARG_SCALE,    DNNL_ARG_SHIFT,      DNNL_ARG_MEAN,
                            DNNL_ARG_VARIANCE, DNNL_ARG_DIFF_SCALE, DNNL_ARG_DIFF_SHIFT};
    if (!bind(n, DNNL_ARG_SRC, &data, x) || !bind(n, backward ? DNNL_ARG_DIFF_SRC : DNNL_ARG_DST, &data, out)
        || (backward && !bind(n, DNNL_ARG_DIFF_DST, &data, dy)))
        return NULL;
    for (int i = 0; i < (backward ? 6 : 4); i++)
        if (!bind(n, vectors[i], &vector, parameters + i * channels[0]))
            return NULL;
    return n; /* the primitive holds what it needs of desc; the string in it is a constant of the library */
}

const char *onednn_implementation(const norm *n) { return n->implementation; }

void onednn_execute(const norm *n)
{
    dnnl_primitive_execute(n->primitive, stream, n->count, n->args);
    dnnl_stream_wait(stream);
}

void onednn_destroy(norm *n)
{
    for (int i = 0; i < n->count; i++)
        dnnl_memory_destroy(n->args[i].memory);
    dnnl_primitive_destroy(n->primitive);
    free(n);
}
