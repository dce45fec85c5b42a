#include "cuda/schedules/launchers.cuh"

namespace fusedrnn {

CudaCellKernels lstm_kernels(DType dtype) { return cell_kernels<Lstm>(dtype); }

}  // namespace fusedrnn
