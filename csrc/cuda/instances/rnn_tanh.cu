#include "cuda/schedules/launchers.cuh"

namespace fusedrnn {

template CudaCellKernels cell_kernels<RnnTanh>(DType dtype);

}  // namespace fusedrnn
