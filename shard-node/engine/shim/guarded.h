// The border between C++ and Rust: no exception crosses it.
#pragma once
#include <c10/util/Exception.h>

#include <exception>
#include <functional>
#include <string>

// Why the last call on this thread failed; ll_last_error reads it.
extern thread_local std::string last_error;

// Runs `f`, turning every C++ exception into null plus a message.
template <class F>
auto guarded(const char* what, F f) -> decltype(f()) {
  try {
    return f();
  } catch (const c10::Error& e) {
    last_error = std::string(what) + ": " + e.what_without_backtrace();
  } catch (const std::exception& e) {
    last_error = std::string(what) + ": " + e.what();
  } catch (...) {
    last_error = std::string(what) + ": an exception that is no std::exception";
  }
  return nullptr;
}
