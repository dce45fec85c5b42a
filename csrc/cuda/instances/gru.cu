#include "cuda/schedules/launchers.cuh"

namespace fusedrnn {

CudaCellKernels gru_kernels(DType dtype) { return cell_kernels<Gru>(dtype); }

}  // namespace fusedrnn
