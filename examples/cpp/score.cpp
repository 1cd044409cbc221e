// Scores WAV files with a detector that `nearfar export` wrote: score FOLDER FILE...
//
// Prints a line per file: score, p-value, "anomalous" or "normal", name. Ends with 0, or 2 where something cannot be used.
// It reads a whole file into memory, and does not resample, check hashes, or check the quality of recordings, as nearfar
// does; a score of a recording unlike the normal ones is no decision about the machine.
#include <onnxruntime_c_api.h>
#include <sndfile.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

using nlohmann::json;

namespace {

const OrtApi* const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

void check(OrtStatus* status) {
  if (status != nullptr) throw std::runtime_error(api->GetErrorMessage(status));
}

json read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return json::parse(file);
}

// One over the size of each score's group among the normal recordings of a domain; 0 for the others. Null: both domains.
void append_weights(const json& recordings, const json& domain, std::vector<double>& weights) {
  const auto counts = [&](const json& entry) { return domain.is_null() || entry.at("domain") == domain; };
  std::map<std::string, int> sizes;
  for (const json& entry : recordings)
    if (counts(entry) && !entry.at("group").is_null()) ++sizes[entry.at("group")];
  for (const json& entry : recordings) {
    const bool alone = entry.at("group").is_null();
    weights.push_back(!counts(entry) ? 0.0 : alone ? 1.0 : 1.0 / sizes[entry.at("group")]);
  }
}

struct Result {
  double score = -std::numeric_limits<double>::infinity();
  double p_value = 1.0;
  bool anomalous = false;
};

class Detector {
 public:
  explicit Detector(const std::string& folder) : description_(read_json(folder + "/exported.json")) {
    OrtEnv* env = nullptr;
    OrtSessionOptions* options = nullptr;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "score", &env));
    check(api->CreateSessionOptions(&options));
    check(api->SetIntraOpNumThreads(options, 1));
    check(api->CreateSession(env, (folder + "/model.onnx").c_str(), options, &session_));
    check(api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_));
    read_data(read_json(folder + "/thresholds.json"), read_json(folder + "/calibration.json").at("recordings"));
  }

  Result score(const std::string& path) {
    const std::vector<std::vector<float>> channels = read(path);
    const int64_t samples = static_cast<int64_t>(channels[0].size());
    Result worst;
    for (const int64_t begin : window_starts(samples)) {
      const int64_t length = std::min<int64_t>(number("window_samples"), samples - begin);
      std::vector<float> window;  // (channels, samples)
      for (const auto& channel : channels)
        window.insert(window.end(), channel.begin() + begin, channel.begin() + begin + length);
      const Result found = run(window, static_cast<int64_t>(channels.size()), length);
      if (found.score > worst.score) worst = found;
    }
    return worst;
  }

 private:
  int64_t number(const char* key) const { return description_.at(key).get<int64_t>(); }

  // The graph's inputs beside the samples: thresholds and p-value weights of the source and the target domain.
  void read_data(const json& thresholds, const json& recordings) {
    for (const json& entry : recordings) scores_.push_back(entry.at("score"));
    for (const char* domain : {"source", "target"}) {
      const json* chosen = nullptr;  // the domain's own threshold, or that for both
      for (const json& entry : thresholds)
        if (entry.at("domain") == domain || (entry.at("domain").is_null() && chosen == nullptr)) chosen = &entry;
      const bool known = chosen != nullptr && !chosen->at("value").is_null();
      thresholds_.push_back(known ? chosen->at("value").get<double>() : std::numeric_limits<double>::infinity());
      append_weights(recordings, chosen == nullptr ? json() : chosen->at("domain"), weights_);
    }
  }

  // Samples in [-1, 1] by channel, in the order of the graph's input.
  std::vector<std::vector<float>> read(const std::string& path) const {
    SF_INFO info{};
    SNDFILE* file = sf_open(path.c_str(), SFM_READ, &info);
    if (file == nullptr) throw std::runtime_error(path + ": " + sf_strerror(nullptr));
    std::vector<float> all(static_cast<size_t>(info.frames) * info.channels);
    const sf_count_t frames = sf_readf_float(file, all.data(), info.frames);
    sf_close(file);
    const int64_t rate = number("sample_rate_hz");
    if (frames != info.frames) throw std::runtime_error(path + ": ends early");
    if (info.samplerate != rate) throw std::runtime_error(path + ": not at " + std::to_string(rate) + " Hz; resample it");
    if (frames < rate / 40) throw std::runtime_error(path + ": shorter than a frame of 0.025 s");
    std::vector<std::vector<float>> chosen;
    for (const json& name : description_.at("channels")) {
      const int64_t column = number(name == "near" ? "near_channel" : "far_channel");
      if (column >= info.channels) throw std::runtime_error(path + ": has no channel " + std::to_string(column));
      std::vector<float>& channel = chosen.emplace_back();
      for (sf_count_t frame = 0; frame < frames; ++frame) channel.push_back(all[frame * info.channels + column]);
    }
    return chosen;
  }

  // As nearfar cuts: a hop apart, and one window at the end of the recording if more than a tenth of one is left over.
  std::vector<int64_t> window_starts(int64_t samples) const {
    const int64_t window = number("window_samples"), hop = number("hop_samples");
    std::vector<int64_t> starts;
    for (int64_t begin = 0; begin <= std::max<int64_t>(samples - window, 0); begin += hop) starts.push_back(begin);
    if (10 * (samples - (starts.back() + window)) > window) starts.push_back(samples - window);
    return starts;
  }

  OrtValue* tensor(void* data, size_t bytes, const std::vector<int64_t>& shape, ONNXTensorElementDataType type) {
    OrtValue* value = nullptr;
    check(api->CreateTensorWithDataAsOrtValue(memory_, data, bytes, shape.data(), shape.size(), type, &value));
    return value;
  }

  OrtValue* doubles(std::vector<double>& values, const std::vector<int64_t>& shape) {
    return tensor(values.data(), values.size() * sizeof(double), shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
  }

  template <typename T>
  static T first(OrtValue* value) {
    void* data = nullptr;
    check(api->GetTensorMutableData(value, &data));
    return *static_cast<T*>(data);
  }

  Result run(std::vector<float>& window, int64_t channels, int64_t samples) {
    const char* const names[] = {"samples", "thresholds", "calibration_scores", "calibration_weights"};
    const char* const wanted[] = {"score", "p_value", "anomalous"};
    const int64_t normals = static_cast<int64_t>(scores_.size());
    OrtValue* const inputs[] = {
        tensor(window.data(), window.size() * sizeof(float), {1, channels, samples}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT),
        doubles(thresholds_, {2}),
        doubles(scores_, {normals}),
        doubles(weights_, {2, normals}),
    };
    OrtValue* outputs[3] = {};
    check(api->Run(session_, nullptr, names, inputs, 4, wanted, 3, outputs));
    const Result result{first<double>(outputs[0]), first<double>(outputs[1]), first<bool>(outputs[2])};
    for (OrtValue* value : inputs) api->ReleaseValue(value);
    for (OrtValue* value : outputs) api->ReleaseValue(value);
    return result;
  }

  json description_;
  OrtSession* session_ = nullptr;  // lives as long as the program, as does the memory
  OrtMemoryInfo* memory_ = nullptr;
  std::vector<double> thresholds_, scores_, weights_;
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: score FOLDER FILE...\n");
    return 2;
  }
  try {
    Detector detector(arguments[1]);
    for (int index = 2; index < count; ++index) {
      const Result found = detector.score(arguments[index]);
      const char* decision = found.anomalous ? "anomalous" : "normal";
      std::printf("%.17g\t%.17g\t%s\t%s\n", found.score, found.p_value, decision, arguments[index]);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "score: %s\n", error.what());
    return 2;
  }
}
