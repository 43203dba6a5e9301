"""The machine and the process: cores, memory, Jetson, forks, child processes, installed libraries."""
