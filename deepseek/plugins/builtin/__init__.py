"""Plugins that come with the package: a module each, of the plugin's name, imported when it is configured."""
