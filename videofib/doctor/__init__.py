"""What works on this machine: packages, devices, readers of videos, backends of attention, caches."""
