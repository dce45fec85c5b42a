#include "cuda/schedules/launchers.cuh"

namespace fusedrnn {

CudaCellKernels rnn_tanh_kernels(DType dtype) { return cell_kernels<RnnTanh>(dtype); }

}  // namespace fusedrnn
