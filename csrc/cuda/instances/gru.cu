#include "cuda/schedules/launchers.cuh"

namespace fusedrnn {

template CudaCellKernels cell_kernels<Gru>(DType dtype);

}  // namespace fusedrnn
