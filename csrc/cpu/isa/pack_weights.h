// Copies a weight matrix into the panels of panel.h, once a call. Units beyond the last are
// zeros, so that a product needs no mask.
#pragma once

#include "cpu/cpu_kernel_table.h"
#include "cpu/isa/panel.h"
#include "cpu/isa/step.h"
#include "math/half.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// How the operand of one of the recurrent products lies in a weight, and in panels.
// Element (group, unit, k) is weight[group * group_stride + unit * unit_stride + k * k_stride].
struct PanelLayout {
  int64_t units;
  int64_t k_size;
  int64_t group_stride, unit_stride, k_stride;
  int groups;
  int vectors;  // of units, side by side in a panel for each group

  template <class V>
  FUSEDRNN_HD int64_t panel_count() const {
    return (units + vectors * V::kLanes - 1) / (vectors * V::kLanes);
  }
  template <class V>
  FUSEDRNN_HD int64_t panel_elements() const {
    return k_size * groups * vectors * V::kLanes;
  }
};

template <template <class> class Cell>
FUSEDRNN_HD PanelLayout make_panel_layout(SweepProduct product, const LayerShape& shape) {
  constexpr int kGates = Cell<float>::kGates;
  const int64_t hidden_size = shape.hidden_size;
  const int64_t output_size = shape.proj_size > 0 ? shape.proj_size : hidden_size;
  switch (product) {
    case SweepProduct::kGates:
      return {hidden_size, output_size, hidden_size * output_size, output_size,
              1,           kGates,      kGates > 1 ? 1 : 2};
    case SweepProduct::kInputs:
      return {hidden_size, shape.input_size,  hidden_size * shape.input_size, shape.input_size, 1,
              kGates,      kGates > 1 ? 1 : 2};
    case SweepProduct::kProjected:
      return {output_size, hidden_size, 0, hidden_size, 1, 1, 2};
    case SweepProduct::kGradHidden:
      return {output_size, kGates * hidden_size, 0, 1, output_size, 1, 2};
    case SweepProduct::kGradProjected:
      break;
  }
  return {hidden_size, output_size, 0, 1, hidden_size, 1, 2};
}

// Packs k in [k_begin, k_end) of one vector of units; dst_stride lies between successive k.
template <class V, class S, class P>
FUSEDRNN_HD void pack_vector(const PanelLayout& layout, const S* weight, int64_t unit,
                             int64_t k_begin, int64_t k_end, P* dst, int64_t dst_stride) {
  const int64_t left = layout.units - unit;
  const int lanes = left <= 0 ? 0 : left < V::kLanes ? static_cast<int>(left) : V::kLanes;
  if (layout.unit_stride == 1 && lanes == V::kLanes) {
    for (int64_t k = k_begin; k < k_end; ++k) {
      load_panel<V>(weight + unit + k * layout.k_stride).store(dst + k * dst_stride);
    }
    return;
  }
  if (layout.k_stride == 1 && lanes == V::kLanes) {
    for (; k_begin + V::kLanes <= k_end; k_begin += V::kLanes) {
      V block[V::kLanes];
#pragma GCC unroll 16
      for (int lane = 0; lane < V::kLanes; ++lane) {
        block[lane] = load_panel<V>(weight + (unit + lane) * layout.unit_stride + k_begin);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i) block[i].store(dst + (k_begin + i) * dst_stride);
    }
  }
  if (lanes < V::kLanes) {
    for (int64_t k = k_begin; k < k_end; ++k) V(0.0f).store(dst + k * dst_stride);
  }
  for (int lane = 0; lane < lanes; ++lane) {
    const S* from = weight + (unit + lane) * layout.unit_stride;
    for (int64_t k = k_begin; k < k_end; ++k) {
      dst[k * dst_stride + lane] = panel_element<P>(from[k * layout.k_stride]);
    }
  }
}

// Packs panels [panel_begin, panel_end), panel.h's layout. Takes few k at a time, so that what
// is transposed stays in the first cache, and lines shared by panels in the second.
template <class V, class S, class P>
void pack_panels(const PanelLayout& layout, const S* weight, int64_t panel_begin, int64_t panel_end,
                 P* packed) {
  constexpr int64_t kBlock = 64;
  const int cols = layout.groups * layout.vectors, tile = tile_cols(cols);
  for (int64_t k_begin = 0; k_begin < layout.k_size; k_begin += kBlock) {
    const int64_t k_end = layout.k_size - k_begin < kBlock ? layout.k_size : k_begin + kBlock;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      P* dst = packed + panel * layout.panel_elements<V>();
      for (int col = 0; col < cols; ++col) {
        const int group = col / layout.vectors, vector = col % layout.vectors;
        P* tile_start = dst + (col / tile * tile) * layout.k_size * V::kLanes;
        pack_vector<V>(layout, weight + group * layout.group_stride,
                       (panel * layout.vectors + vector) * V::kLanes, k_begin, k_end,
                       tile_start + col % tile * V::kLanes, tile * V::kLanes);
      }
    }
  }
}

template <template <class> class Cell, class S>
struct PackWeights {
  using A = accum_t<S>;
  using V = Pack<A>;

  static PanelCount count(SweepProduct product, const LayerShape& shape) {
    const PanelLayout layout = make_panel_layout<Cell>(product, shape);
    return {layout.panel_count<V>(), layout.panel_elements<V>()};
  }

  static void pack(SweepProduct product, const LayerShape& shape, PanelElement element,
                   const void* weight, int64_t panel_begin, int64_t panel_end, void* packed) {
    const PanelLayout layout = make_panel_layout<Cell>(product, shape);
    const auto* from = static_cast<const S*>(weight);
    if (element == PanelElement::kStorage) {
      pack_panels<V>(layout, from, panel_begin, panel_end, static_cast<S*>(packed));
    } else {
      pack_panels<V>(layout, from, panel_begin, panel_end, static_cast<A*>(packed));
    }
  }
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
