"""Pods as real containers of this host's Podman, through its libpod REST socket."""
