// The part of ONNX Runtime's C API that score.cpp uses, for builds against the Python package, which has no headers.
// The order of the functions in OrtApi is fixed: later versions only append. ONNX Runtime is under the MIT licence,
// copyright Microsoft Corporation; its own header, onnxruntime_c_api.h of a release, is to be preferred.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 16

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtValue OrtValue;
typedef struct OrtMemoryInfo OrtMemoryInfo;

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_ERROR = 3 };
enum OrtAllocatorType { OrtDeviceAllocator = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE = 11 };

struct OrtApi {
  void (*unused_0[2])(void);  // CreateStatus to GetErrorCode
  const char* (*GetErrorMessage)(const OrtStatus* status);
  OrtStatus* (*CreateEnv)(OrtLoggingLevel level, const char* log_id, OrtEnv** out);
  void (*unused_4[3])(void);  // CreateEnvWithCustomLogger to DisableTelemetryEvents
  OrtStatus* (*CreateSession)(const OrtEnv* env, const char* path, const OrtSessionOptions* options, OrtSession** out);
  void (*unused_8[1])(void);  // CreateSessionFromArray
  OrtStatus* (*Run)(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                    const OrtValue* const* inputs, size_t input_count, const char* const* output_names,
                    size_t output_count, OrtValue** outputs);
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions** out);
  void (*unused_11[13])(void);  // SetOptimizedModelFilePath to SetSessionGraphOptimizationLevel
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions* options, int threads);
  void (*unused_25[24])(void);  // SetInterOpNumThreads to CreateTensorAsOrtValue
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo* info, void* data, size_t bytes, const int64_t* shape,
                                               size_t axes, ONNXTensorElementDataType type, OrtValue** out);
  void (*unused_50[1])(void);  // IsTensor
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);
  void (*unused_52[17])(void);  // FillStringTensor to CreateMemoryInfo
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType type, OrtMemType kind, OrtMemoryInfo** out);
  void (*unused_70[26])(void);  // CompareMemoryInfo to ReleaseSession
  void (*ReleaseValue)(OrtValue* value);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)(void);
};

extern "C" const OrtApiBase* OrtGetApiBase(void);
