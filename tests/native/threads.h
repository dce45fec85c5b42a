// run_on_threads: a function on several threads at once. The threads stay for the next call, as
// OpenMP's do: under the sanitizers starting one takes longer than most calls.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

class Worker {
 public:
  ~Worker() {
    start([this] { ended_ = true; });
    thread_.join();
  }
  void start(std::function<void()> task) {
    const std::lock_guard<std::mutex> lock(mutex_);
    task_ = std::move(task);
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return task_ == nullptr; });
  }

 private:
  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!ended_) {
      changed_.wait(lock, [this] { return task_ != nullptr; });
      task_();
      task_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> task_;
  bool ended_ = false;
  std::thread thread_{[this] { work(); }};
};

// task(i) for each i below `count`, at the same time.
template <class Task>
void run_on_threads(int count, const Task& task) {
  static std::vector<std::unique_ptr<Worker>> workers;
  while (static_cast<int>(workers.size()) < count - 1)
    workers.push_back(std::make_unique<Worker>());
  for (int i = 1; i < count; ++i) workers[i - 1]->start([&task, i] { task(i); });
  task(0);
  for (int i = 1; i < count; ++i) workers[i - 1]->wait();
}
