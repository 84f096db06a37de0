# NixOS module: imports = [ …/packaging/nix/module.nix ]; services.hyperv-agent.enable = true;
{ config, lib, pkgs, ... }:

let
  cfg = config.services.hyperv-agent;
  format = pkgs.formats.toml { };
in
{
  options.services.hyperv-agent = {
    enable = lib.mkEnableOption "hyperv-agent, which replaces the daemons of virtualisation.hypervGuest";
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      description = "The package of hyperv-agent.";
    };
    settings = lib.mkOption {
      inherit (format) type;
      default = { };
      example = { services.fcopy = false; };
      description = "The configuration, as hyperv-agent.toml(5) describes it.";
    };
    path = lib.mkOption {
      type = lib.types.listOf lib.types.package;
      default = [ ];
      description = "Packages with programs for the hooks and for the network manager's script.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."hyperv-agent/config.toml".source = format.generate "hyperv-agent.toml" cfg.settings;

    systemd.packages = [ cfg.package ];
    systemd.services.hyperv-agent = {
      # NixOS does not read [Install].
      wantedBy = [ "multi-user.target" ];
      reloadTriggers = [ config.environment.etc."hyperv-agent/config.toml".source ];
      path = [ config.systemd.package pkgs.kmod ]
        ++ lib.optional config.networking.networkmanager.enable pkgs.networkmanager
        ++ cfg.path;
      serviceConfig = {
        # systemctl is elsewhere than the unit says. An empty line clears the unit's own.
        ExecStartPre = [ "" "-${config.systemd.package}/bin/systemctl stop hv-fcopy.service hv-kvp.service hv-vss.service" ];
      };
    };
    # The daemons of virtualisation.hypervGuest stay out of the way.
    systemd.services.hv-fcopy.enable = false;
    systemd.services.hv-kvp.enable = false;
    systemd.services.hv-vss.enable = false;

    systemd.tmpfiles.rules = [
      "d /var/lib/hyperv 0755 root root -"
      "d /etc/hyperv-agent/vss.d 0755 root root -"
    ];
    # NixOS replaces the rule's "/sbin/modprobe" with the path of its own.
    services.udev.packages = [ cfg.package ];
  };
}
