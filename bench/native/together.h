// A measurement that several threads make at the same time.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

// Returns when every thread has called it.
class Start {
 public:
  explicit Start(int threads) : waiting_(threads) {}
  void wait() {
    waiting_.fetch_sub(1);
    while (waiting_.load() > 0) {
    }
  }

 private:
  std::atomic<int> waiting_;
};

// Calls `work` again and again until `seconds` are over; returns calls a second.
template <typename Work>
double calls_per_second(double seconds, const Work& work) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  double calls = 0, elapsed = 0;
  do {
    work();
    ++calls;
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < seconds);
  return calls / elapsed;
}

// `measure(start)` on every thread; returns the sum of what they return.
template <typename Measure>
double sum_of_rates(int threads, const Measure& measure) {
  Start start(threads);
  std::vector<double> rates(threads);
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) {
    others.emplace_back([&, i] { rates[i] = measure(start); });
  }
  rates[0] = measure(start);
  for (std::thread& other : others) other.join();
  double total = 0;
  for (double rate : rates) total += rate;
  return total;
}
