// An empty library with the name of torch's own. Linked in its place, so that the operators find
// the one which `import torch` has loaded; it is not installed.
