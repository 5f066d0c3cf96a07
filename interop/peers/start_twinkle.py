"""Starts Twinkle on the CPU: a Ray instance of its own, the gateway, and Twinkle's mock model and mock sampler.

Usage: start_twinkle.py PORT MODEL DIRECTORY. `twinkle-server launch` joins a Ray instance that runs already; this starts one that
ends with the server. Twinkle's other backends need torch with CUDA and vLLM. All files of Twinkle are written to DIRECTORY;
those of Ray to a directory for temporary files, since the names of its sockets must be short.
"""

import os
import shutil
import sys
import tempfile

CPU = {"device_type": "CPU"}


def application(kind, name, route, **args):
    deployment = {"name": name, "max_ongoing_requests": 100, "ray_actor_options": {"num_cpus": 0.1}}
    return {"name": name, "route_prefix": route, "import_path": kind, "args": args, "deployments": [deployment]}


def configuration(port, model, directory):
    def backend(name, **args):
        group = {"name": name, "ranks": 1, **CPU}
        queue = {"rps_limit": 1e6, "tps_limit": 1e9, "max_input_tokens": 1 << 20}
        return {"model_id": model, "device_group": group, "device_mesh": {"dp_size": 1, **CPU}, "queue_config": queue, **args}

    return {
        "http_options": {"host": "127.0.0.1", "port": port},
        "persistence": {"mode": "file", "file_path": os.path.join(directory, "state")},
        "applications": [
            application("server", "server", "/api/v1", supported_models=[model]),
            application("model", "model", f"/api/v1/model/{model}", **backend("model", backend="mock", max_loras=1000)),
            application("sampler", "sampler", f"/api/v1/sampler/{model}", **backend("sampler", sampler_type="mock")),
        ],
    }


def main():
    port, model, directory = sys.argv[1:]
    os.makedirs(directory, exist_ok=True)
    os.environ["TWINKLE_DEFAULT_SAVE_DIR"] = os.path.join(directory, "checkpoints")
    ray_directory = tempfile.mkdtemp(prefix="ray-")
    import ray
    from twinkle.server.config import ServerConfig
    from twinkle.server.launcher import launch_server
    from twinkle.server.utils.ray_serve_patch import apply_ray_serve_patches, get_runtime_env_for_patches

    config = ServerConfig.model_validate(configuration(int(port), model, directory))
    for name, value in config.persistence.to_env_vars().items():
        os.environ[name] = value
    apply_ray_serve_patches()
    try:
        ray.init(
            # Each part of the server reserves processors, whether the machine has them or not.
            num_cpus=4,
            namespace="twinkle_cluster",
            include_dashboard=False,
            runtime_env=get_runtime_env_for_patches(),
            _node_ip_address="127.0.0.1",
            _temp_dir=ray_directory,
            object_store_memory=200 << 20,
        )
        launch_server(config=config)
    finally:
        ray.shutdown()
        shutil.rmtree(ray_directory, ignore_errors=True)


if __name__ == "__main__":
    main()
