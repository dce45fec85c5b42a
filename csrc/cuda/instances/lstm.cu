#include "cuda/schedules/launchers.cuh"

namespace fusedrnn {

template CudaCellKernels cell_kernels<Lstm>(DType dtype);

}  // namespace fusedrnn
