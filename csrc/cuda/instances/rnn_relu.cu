#include "cuda/schedules/launchers.cuh"

namespace fusedrnn {

template CudaCellKernels cell_kernels<RnnRelu>(DType dtype);

}  // namespace fusedrnn
