// The matrix product of per_step's fused kernels on tensor cores: a block of kFusedThreads threads
// multiplies kRows rows by kUnits units with N columns each.
//
//   sum[n] = sum over k of a[row, k] * w(k, n, unit)
//
// The warps share the depth: each multiplies every eighth piece of it, of 64 bytes a row, and at
// the end the sums of all warps are added in a fixed order. Operands come from memory to the
// registers of the instruction, without shared memory or a barrier: which k a word position of
// device/mma.cuh stands for is free, so lane 4 * g + q takes 16 consecutive bytes of a row, words
// 0 and 1 for one instruction and words 2 and 3 for another. The pieces ahead are in registers or
// on their way. Weights are asked for before the launch before has ended.
//
// Where rows do not begin at multiples of 16 bytes, elements are loaded one by one (Loads).
#pragma once

#include <type_traits>

#include "cuda/device/launch_shape.h"
#include "cuda/device/mma.cuh"
#include "cuda/schedules/block.cuh"
#include "cuda/schedules/tile_matmul.cuh"
#include "plan/cuda_plan.h"

namespace fusedrnn {

// What a lane loads at once: 16 bytes of a row (of kDepthRows two units), or elements.
enum class Loads : int8_t { kPackets, kElements };

// The operand that a storage type is to the tensor cores.
template <class S>
struct TensorOperand {
  using type = S;
};
template <>
struct TensorOperand<float> {
  using type = Tf32;
};

template <class S, int N, WeightLayout kLayout, int kRowTiles, Loads kLoads>
class TensorMatMul {
 public:
  using Operand = typename TensorOperand<S>::type;
  static constexpr bool kUnitRows = kLayout == WeightLayout::kUnitRows;
  static_assert(kUnitRows || N == 1, "rows k have one column a unit");
  static constexpr int kTileUnits = 8;
  // Tiles of columns: one for each n, or two of neighbouring units, which are loaded together.
  static constexpr int kTiles = kUnitRows ? N : 2;
  static constexpr int kUnits = kUnitRows ? kTileUnits : 2 * kTileUnits;
  static constexpr int kRows = kTensorRows * kRowTiles;
  static constexpr int kWarps = kFusedThreads / kWarpSize;
  static constexpr int kLaneDepth = Packet<S>::kSize;  // k of a lane in a piece
  static constexpr int kPiece = 4 * kLaneDepth;
  static constexpr int kResidentBlocks =
      kRowTiles == 1 && kLoads == Loads::kPackets && kHasMma ? 2 : 1;
  // Shared memory: the sums of the warps, A [kWarps, kTiles, kRows, kTileUnits].
  static constexpr int64_t kSmemBytes =
      int64_t{kWarps} * kTiles * kRows * kTileUnits * int64_t{sizeof(float)};

  // w(k, n, unit) of the block is weight[(n * n_stride + unit) * row_stride + k], or
  // weight[k * row_stride + unit]; `units` of them exist, and what is beyond them is any other.
  FUSEDRNN_DEV TensorMatMul(const S* weight, int64_t n_stride, int64_t row_stride, int64_t units,
                            int64_t depth)
      : depth_(static_cast<int>(depth)),
        row_stride_(row_stride),
        n_offset_(n_stride * row_stride),
        next_k_(first_k()) {
    if constexpr (kUnitRows) {
      weight_ = weight + (group() < units ? group() : 0) * row_stride + first_k();
    } else {
      weight_ = weight + (2 * group() < units ? 2 * group() : 0) + first_k() * row_stride;
      next_unit_ = 2 * group() + 1 < units ? 1 : 0;
    }
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum_[tile][n][i] = 0;
      }
    }
  }

  // The rows of `a`, of the block, that this lane loads of: two of each tile.
  static constexpr int kLaneRows = 2 * kRowTiles;
  FUSEDRNN_DEV static int lane_row(int i) { return i * 8 + group(); }

  // Asks for the weights of the first pieces.
  FUSEDRNN_DEV void load_first_weights() {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) load_weights(j);
  }

  // rows[i] is lane_row(i), or null: zeros. Every thread of the block calls this, and then may read
  // the sums of any row and unit.
  template <class Barriers>
  FUSEDRNN_DEV void multiply(const S* const (&rows)[kLaneRows]) {
    int depths[kLaneRows];
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) depths[i] = rows[i] != nullptr ? depth_ : 0;
    int k = first_k();  // of this lane in the next piece of rows to load
#pragma unroll
    for (int j = 0; j < kAhead; ++j, k += kStride) load_rows(j, k, rows, depths);
    const int pieces = (depth_ + kPiece - 1) / kPiece;
    const int count = (pieces - warp_idx() + kWarps - 1) / kWarps;
    for (int first = 0; first < count; first += kAhead) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (first + j >= count) break;
        multiply_piece(j);
        if (first + j + kAhead >= count) continue;
        load_weights(j);
        load_rows(j, k, rows, depths);
        k += kStride;
      }
    }
    const Shared<Pair> smem = shared_memory<Pair>(0);
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t i = sum_idx(warp_idx(), n, lane_row(2 * tile + half), 2 * (lane_idx() % 4));
          smem.store(i / 2, Pair{sum_[tile][n][2 * half], sum_[tile][n][2 * half + 1]});
        }
      }
    }
    Barriers::template wait<0>();  // every warp's sums are there
  }
  FUSEDRNN_DEV static void add_sums(int row, int unit, float (&sum)[N]) {
    const Shared<float> smem = shared_memory<float>(0);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      sum[n] = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        sum[n] += kUnitRows ? smem.load(sum_idx(warp, n, row, unit))
                            : smem.load(sum_idx(warp, unit % 2, row, unit / 2));
      }
    }
  }

 private:
  struct alignas(8) Pair {
    float v[2];
  };
  // Two neighbouring units of a row k.
  struct Line {
    S units[2];
  };
  using LineBits = std::conditional_t<sizeof(S) == 2, uint32_t, uint64_t>;
  static constexpr int kLineWords = static_cast<int>(sizeof(Line) / 4);
  struct LineWords {
    uint32_t v[kLineWords];
  };
  // Words of the weights of a lane in a piece: packets of one unit each, or lines of two units.
  static constexpr int kWeightWords = kUnitRows ? 4 * N : 8;
  static constexpr int kPieceWords = kWeightWords + 8 * kRowTiles;
  // Chunks of a warp that are under way: what two blocks of an SM have registers for.
  static constexpr int kAhead = kPieceWords > 24 ? 2 : kPieceWords > 16 ? 3 : 4;

  FUSEDRNN_DEV static int group() { return lane_idx() / 4; }
  FUSEDRNN_DEV static int64_t sum_idx(int warp, int n, int row, int unit) {
    return ((warp * kTiles + n) * kRows + row) * kTileUnits + unit;
  }
  // Where this lane's part of the warp's first piece begins in the depth, and how far apart its
  // pieces are.
  static constexpr int kStride = kWarps * kPiece;
  FUSEDRNN_DEV static int first_k() { return warp_idx() * kPiece + lane_idx() % 4 * kLaneDepth; }

  // The words of a lane at `line`, of which `left` elements are in the depth.
  template <class LoadPacket, class Load>
  FUSEDRNN_DEV static void load_words(const S* line, int left, uint32_t* words,
                                      const LoadPacket& load_packet, const Load& load) {
    Packet<uint32_t> loaded{};
    if constexpr (kLoads == Loads::kPackets) {
      if (left > 0) loaded = load_packet(reinterpret_cast<const uint32_t*>(line));
    } else {
      Packet<S> packet{};
#pragma unroll
      for (int i = 0; i < kLaneDepth; ++i) {
        if (i < left) packet[i] = load(line + i);
      }
      loaded = bit_cast<Packet<uint32_t>>(packet);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = loaded[i];
  }

  FUSEDRNN_DEV void load_rows(int j, int k, const S* const (&rows)[kLaneRows],
                              const int (&depths)[kLaneRows]) {
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      load_words(
          rows[i] + k, depths[i] - k, rows_[j][i],
          [](const uint32_t* ptr) { return load_global_packet(ptr); },
          [](const S* ptr) { return load_global(ptr); });
    }
  }

  // Asks for the weights of the next piece.
  FUSEDRNN_DEV void load_weights(int j) {
    const int left = depth_ - next_k_;
    if constexpr (kUnitRows) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        load_words(
            weight_ + n * n_offset_, left, weights_[j] + 4 * n,
            [](const uint32_t* ptr) { return ldg_packet(ptr); },
            [](const S* ptr) { return ldg(ptr); });
      }
    } else {
      const S* from = weight_;
#pragma unroll
      for (int i = 0; i < kLaneDepth; ++i, from += row_stride_) {
        LineBits line = 0;
        if constexpr (kLoads == Loads::kPackets) {
          if (i < left) line = ldg(reinterpret_cast<const LineBits*>(from));
        } else {
          if (i < left) line = bit_cast<LineBits>(Line{{ldg(from), ldg(from + next_unit_)}});
        }
        const auto words = bit_cast<LineWords>(line);
#pragma unroll
        for (int word = 0; word < kLineWords; ++word) {
          weights_[j][i * kLineWords + word] = words.v[word];
        }
      }
    }
    weight_ += kUnitRows ? kStride : kStride * row_stride_;
    next_k_ += kStride;
  }

  // Word `word` of tile n's part of a lane in piece j, as the instruction takes it.
  FUSEDRNN_DEV uint32_t weight_word(int j, int n, int word) const {
    const uint32_t (&words)[kWeightWords] = weights_[j];
    if constexpr (kUnitRows) return operand(words[4 * n + word]);
    if constexpr (sizeof(S) == 4) return operand(words[2 * word + n]);
    const uint32_t low = words[2 * word], high = words[2 * word + 1];
    return n == 0 ? (low & 0xFFFFu) | high << 16 : low >> 16 | (high & 0xFFFF0000u);
  }
  FUSEDRNN_DEV static uint32_t operand(uint32_t word) {
    if constexpr (sizeof(S) == 4) return round_to_tf32(word);
    return word;
  }

  FUSEDRNN_DEV void multiply_piece(int j) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        const auto& low = rows_[j][2 * tile];
        const auto& high = rows_[j][2 * tile + 1];
        const uint32_t a[4] = {operand(low[i]), operand(high[i]), operand(low[i + 1]),
                               operand(high[i + 1])};
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          const uint32_t b[2] = {weight_word(j, n, i), weight_word(j, n, i + 1)};
          mma<Operand>(sum_[tile][n], a, b);
        }
      }
    }
  }

  const S* weight_;  // this lane's first weight of the next piece to load
  int depth_;
  int64_t row_stride_, n_offset_;  // elements from a row of the weight, and a column, to the next
  int next_k_;                     // where that weight is in the depth
  int next_unit_ = 0;              // from a lane's unit to its second one
  uint32_t weights_[kAhead][kWeightWords];
  uint32_t rows_[kAhead][kLaneRows][4];
  float sum_[kRowTiles][kTiles][4];
};

}  // namespace fusedrnn
