"""The frozen base, the experts around it, the routers, and their parameters by role."""
