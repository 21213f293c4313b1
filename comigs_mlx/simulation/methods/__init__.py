"""The methods: one file each; its name is the method's."""
