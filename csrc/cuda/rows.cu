// Kernels that know no cell, for each storage type.
#include "cuda/schedules/launchers.cuh"
#include "cuda/schedules/rows.cuh"

namespace fusedrnn {

namespace {

template <class S>
struct DTypeLaunchers {
  using A = accum_t<S>;

  static Status copy(const CopyArgs& args, Stream stream) {
    return launch<Copy<S, S>>(flat_shape(args.rows * args.cols), args, stream);
  }
  static Status store(const CopyArgs& args, Stream stream) {
    return launch<Copy<A, S>>(flat_shape(args.rows * args.cols), args, stream);
  }
  static Status sum_columns(const SumColumnsArgs& args, int count, Stream stream) {
    return launch<SumColumns<S>>(SumColumns<S>::shape(args.cols, count), args, stream);
  }
  static Status sum_slices(const SumSlicesArgs& args, int count, Stream stream) {
    LaunchShape shape = flat_shape(args.cols);
    shape.grid_z = count;
    return launch<SumSlices<S>>(shape, args, stream);
  }
  static Status end_rows(const EndRowsArgs& args, Stream stream) {
    return launch<EndRows<S>>(flat_shape(args.rows * args.cols), args, stream);
  }
  static Status backward_hidden(const BackwardStepArgs& args, int directions, Stream stream) {
    return launch<BackwardHidden<S>>(step_shape<ReadProduct>(backward_rows(args, directions),
                                                             args.sizes.output_size, directions),
                                     args, stream);
  }
};

}  // namespace

CudaDTypeKernels dtype_kernels(DType dtype) {
  return visit_dtype(dtype, [](auto storage) {
    using Launchers = DTypeLaunchers<decltype(storage)>;
    return CudaDTypeKernels{Launchers::copy,       Launchers::store,    Launchers::sum_columns,
                            Launchers::sum_slices, Launchers::end_rows, Launchers::backward_hidden};
  });
}

}  // namespace fusedrnn
