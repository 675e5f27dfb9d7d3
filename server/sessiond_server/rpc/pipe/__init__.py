"""Many unary calls in one stream: PipeService, as protos/sessiond/v1/pipe_service.proto describes it."""
