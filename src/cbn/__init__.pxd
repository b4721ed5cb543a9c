# cbn: what `cimport cbn` gives: the C interface, of which cbn.h says what is what.
# SPDX-License-Identifier: BSD-3-Clause
#
# Compile with `cbn.get_include()` among the include folders; nothing is linked. Call `import_cbn()` once, where the
# module is imported: it fails if the cbn that is installed has another binary interface than the one compiled for.
from cbn._core cimport (
    CBN_ABI_VERSION, CBN_BFLOAT16, CBN_FLOAT16, CBN_FLOAT32, CBN_FLOAT64, CBN_IDENTITY, CBN_LEAKY_RELU,
    CBN_LEAST_PARALLEL, CBN_NO_MEMORY, CBN_OK, CBN_RELU, CBN_UINT8, cbn_activation, cbn_dtype, cbn_options, cbn_status,
    cbn_abi_version, cbn_available_isa, cbn_backward, cbn_backward_input, cbn_backward_sums, cbn_count,
    cbn_double_backward, cbn_forward, cbn_inference, cbn_isa, cbn_moments, cbn_normalize_images,
    cbn_openmp_max_threads, cbn_openmp_num_procs, cbn_openmp_thread_limit, cbn_openmp_version, cbn_part_moments,
    cbn_select_isa, cbn_update_running, cbn_version,
)


cdef inline int import_cbn() except -1:
    if cbn_abi_version() != CBN_ABI_VERSION:
        raise ImportError(f"cbn must have the binary interface {CBN_ABI_VERSION}; got {cbn_abi_version()}")
    return 0
