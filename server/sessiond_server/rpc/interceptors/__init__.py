"""The interceptors, one concern each. `RpcServer` in rpc/server.py has their order, with the reasons."""
