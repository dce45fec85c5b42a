#include "cuda/schedules/launchers.cuh"

namespace fusedrnn {

CudaCellKernels rnn_relu_kernels(DType dtype) { return cell_kernels<RnnRelu>(dtype); }

}  // namespace fusedrnn
